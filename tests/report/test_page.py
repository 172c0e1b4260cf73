"""The page of a run: true to its files in every state, complete in itself, and harmless to the run folder."""

import json
import os
import re
import shlex
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from made_runs import Recipe, RunMaker, write_ramps

from autopv.cli.parser import make_parser
from autopv.errors import InputError
from autopv.report.numbers import distance_text
from autopv.report.page import write_page
from autopv.search.events import EventLog
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder

pytestmark = pytest.mark.slow

RECIPES = {
    "helps": Recipe(gain=0.5),
    "few seeds": Recipe(num_blocks=1),
    "none verified": Recipe(num_blocks=0, num_trials=7),
    "in verification": Recipe(stop="verify"),
    "in search": Recipe(stop="search", budget="30trials"),
    "before the first trial": Recipe(stop="start"),
    "failed only": Recipe(failure="the loss is no longer finite <b>at</b> step 3", num_trials=7, num_blocks=1),
    "early rungs": Recipe(rungs=(1 / 9, 1 / 3, 1.0), num_trials=7, num_blocks=1),
}
SECTIONS = ("verdict", "arms", "samples", "videos", "curves", "budget", "trials", "setting")

MakeRun = Callable[[str], RunFolder]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 grey images in one file."""
    return write_ramps(tmp_path_factory.mktemp("data") / "ramps.npy")


@pytest.fixture(scope="module")
def originals(images: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    maker, root = RunMaker(images), tmp_path_factory.mktemp("runs")
    made: dict[str, RunFolder] = {}

    def original(name: str) -> RunFolder:
        if name not in made:
            made[name] = maker.make(root / name.replace(" ", "-"), RECIPES[name])
        return made[name]

    return original


@pytest.fixture
def run(originals: MakeRun, tmp_path: Path) -> MakeRun:
    """A copy of the made run of a name, to be written to."""

    def copy(name: str) -> RunFolder:
        path = tmp_path / name.replace(" ", "-")
        shutil.copytree(originals(name).path, path)
        return RunFolder.open(path)

    return copy


def page_of(folder: RunFolder) -> str:
    return write_page(folder).read_text(encoding="utf-8")


def text_of(html: str) -> str:
    """What a reader sees, in one line."""
    body = html.split("</head>")[1]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def headline_of(html: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", html, re.DOTALL)
    assert found is not None
    return unescape(found[1])


def commands_of(html: str) -> list[str]:
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", html, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", "", block)) for block in blocks]


def sections_of(html: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', html)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("name", RECIPES)
def test_every_page_is_complete_in_itself(run: MakeRun, name: str) -> None:
    html = page_of(run(name))
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html  # a browser would refuse anything from elsewhere
    for foreign in ("<script", "<link", "@import", "url(", "http://", "https://"):
        assert foreign not in html, foreign
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="(.*?)"', html))
    for chart in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(chart)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b|Undefined", text_of(html))


@pytest.mark.parametrize("name", RECIPES)
def test_nothing_in_the_run_folder_changes_but_the_page(run: MakeRun, name: str) -> None:
    folder = run(name)
    before = contents(folder.path)
    page_of(folder)
    after = contents(folder.path)
    assert after.pop("report.html")
    assert after == before


@pytest.mark.parametrize("name", RECIPES)
def test_every_command_on_the_page_can_be_typed(run: MakeRun, name: str) -> None:
    commands = [shlex.split(command) for command in commands_of(page_of(run(name)))]
    ours = [command[1:] for command in commands if command[0] == "autopv"]
    assert ours
    for arguments in ours:
        make_parser().parse_args(arguments)  # exits where it is wrong


def test_the_page_of_a_gain_tells_it_first_and_how_to_train_on(run: MakeRun) -> None:
    folder = run("helps")
    result = json.loads(folder.result.read_text())
    verdict = result["verdict"]
    assert verdict["conclusion"] == "pseudo video helps"
    html = page_of(folder)
    gain = next(c["gain"] for c in verdict["comparisons"] if c["arm"] == verdict["recommended"])
    assert headline_of(html).startswith("Train with the pseudo videos recommended here")
    assert f"{100 * gain:.0f}%" in headline_of(html)
    assert verdict["sentence"] in text_of(html)
    assert "A longer training can turn it round" in text_of(html)
    assert sections_of(html) == list(SECTIONS)
    train = next(shlex.split(line) for line in commands_of(html) if line.startswith("autopv train"))
    arguments = make_parser().parse_args(train[1:])
    assert arguments.policy == folder.policy
    assert (arguments.data, arguments.size, arguments.steps) == (result["settings"]["data"], 16, 400)


def test_the_table_holds_the_numbers_of_the_result(run: MakeRun) -> None:
    folder = run("helps")
    verdict = json.loads(folder.result.read_text())["verdict"]
    text = text_of(page_of(folder))
    for comparison in verdict["comparisons"]:
        start = text.index(distance_text(comparison["mean_excess"]))
        row = text[start : start + 120]
        for distance in verdict["per_seed"][comparison["arm"]]:
            assert f"{distance:.0f}" in row, comparison["arm"]


def test_the_setting_can_be_met_again(run: MakeRun) -> None:
    folder = run("helps")
    settings = folder.settings()
    text = text_of(page_of(folder))
    for value in (settings.data_digest, settings.metric, "0123456789ab", "a machine", settings.space):
        assert value in text
    assert "n = 32" in text


@pytest.mark.parametrize(
    ("name", "says", "missing"),
    [
        ("few seeds", "not enough evidence", set()),
        ("none verified", "not enough evidence", {"arms"}),
        ("in verification", "the run stopped while verifying", set()),
        ("in search", "the run stopped while searching", {"arms"}),
        ("before the first trial", "the run stopped while searching", {"arms", "videos", "curves", "trials"}),
        ("failed only", "not enough evidence", {"videos", "curves"}),
        ("early rungs", "not enough evidence", set()),
    ],
)
def test_a_run_in_any_state_has_its_page(run: MakeRun, name: str, says: str, missing: set[str]) -> None:
    folder = run(name)
    html = page_of(folder)
    assert says in headline_of(html)
    assert sections_of(html) == [slug for slug in SECTIONS if slug not in missing]
    done = folder.result.exists()
    assert any(command.startswith("autopv train") for command in commands_of(html)) == done
    assert (f"autopv resume {folder.path}" in commands_of(html)) == (not done)


def test_a_budget_of_trials_alone_has_nothing_left_to_show(run: MakeRun) -> None:
    text = text_of(page_of(run("in search")))
    assert "Budget 30trials" in text
    assert "10 of 30 trials started" in text
    assert "left:" not in text


def test_failures_are_told_by_cause_and_as_text(run: MakeRun) -> None:
    html = page_of(run("failed only"))
    assert "7 failed: the loss is no longer finite <b>at</b> step 3" in text_of(html)
    assert "<b>at</b>" not in html


def test_nothing_of_a_run_is_taken_for_markup(run: MakeRun) -> None:
    folder = run("in search")
    hostile = '"><script>alert(1)</script>{{ 7 * 7 }}'
    settings = replace(folder.settings(), data=f"/images/{hostile}", versions={"device": hostile, "commit": hostile})
    folder.write_settings(settings)
    html = page_of(folder)
    assert "<script" not in html
    assert "{{ 7 * 7 }}" in text_of(html)


def test_without_its_data_a_run_keeps_its_page(run: MakeRun) -> None:
    folder = run("helps")
    folder.write_settings(replace(folder.settings(), data="/nowhere/images.npy"))
    html = page_of(folder)
    assert "No real images" in text_of(html)
    assert "/nowhere/images.npy" in text_of(html)
    assert "<img" not in html


def test_without_its_models_package_a_run_keeps_its_page_and_tells_all_settings(run: MakeRun) -> None:
    folder = run("before the first trial")
    versions = {"model package": "their-models 1.2"}
    folder.write_settings(replace(folder.settings(), model="theirs", versions=versions))
    html = page_of(folder)
    assert "model package their-models 1.2" in text_of(html)
    (repeat,) = [command for command in commands_of(html) if command.startswith("autopv search")]
    assert "--model theirs" in repeat
    assert "--batch-size 32 --learning-rate 0.005 --kl-weight 1.0" in repeat, "which of them are usual is not known"


def test_a_run_at_work_is_told_from_one_that_stopped(run: MakeRun) -> None:
    folder = run("in search")
    assert "stopped" in headline_of(page_of(folder))
    ledger = Ledger(folder.ledger)
    ledger.grant("search-0007", phase="search")
    assert headline_of(page_of(folder)) == "There is no verdict yet: the run is searching."
    ledger.close()
    EventLog(folder.events).emit("progress", key="search-0007", label="search-0007", progress=0.5, spent_s=1.0)
    assert "stopped" in headline_of(page_of(folder))
    (folder.path / "lock").write_text(str(os.getpid()))  # between two items
    assert "is searching" in headline_of(page_of(folder))


def test_a_run_whose_driver_was_killed_is_read_with_what_it_left_behind(run: MakeRun, tmp_path: Path) -> None:
    folder = run("in search")
    ledger = Ledger(folder.ledger)
    ledger.set_state("phase", "verify")  # stands in the database's log alone
    killed = RunFolder(tmp_path / "killed")
    shutil.copytree(folder.path, killed.path)
    ledger.close()
    (killed.path / "ledger.db-shm").unlink()
    before = contents(killed.path)
    assert "stopped while verifying" in headline_of(page_of(killed))
    after = contents(killed.path)
    assert after.pop("report.html")
    assert after == before


def test_an_earlier_verdict_is_not_told_while_the_run_goes_on(run: MakeRun) -> None:
    folder = run("helps")
    ledger = Ledger(folder.ledger)
    ledger.set_state("phase", "search")
    ledger.close()
    assert "There is no verdict yet" in headline_of(page_of(folder))


def test_an_earlier_page_is_overwritten_and_nothing_else(run: MakeRun, tmp_path: Path) -> None:
    folder = run("before the first trial")
    first = write_page(folder).stat().st_mtime_ns
    time.sleep(0.01)
    assert write_page(folder).stat().st_mtime_ns > first
    other = tmp_path / "mine.html"
    other.write_text("<p>mine")
    for out, why in ((other, "no page of autopv"), (tmp_path / "a.txt", "ends in"), (tmp_path, "html")):
        with pytest.raises(InputError, match=why):
            write_page(folder, out=out)
    assert other.read_text() == "<p>mine"
    assert write_page(folder, out=tmp_path / "new" / "page.htm").exists()


def test_a_damaged_result_is_refused_with_its_name(run: MakeRun) -> None:
    folder = run("few seeds")
    os.truncate(folder.result, 20)
    with pytest.raises(InputError, match=r"result\.json is damaged"):
        write_page(folder)
