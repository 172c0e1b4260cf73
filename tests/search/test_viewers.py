"""A finished run in the viewers that people use: optuna-dashboard, TensorBoard, and the page of `autopv report`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from launching import RunCli

from autopv.report.numbers import distance_text
from autopv.search.board import FOLDER, JOB
from autopv.search.events import read_events
from autopv.search.records import TrialRecord
from autopv.search.study_file import read_records

pytestmark = pytest.mark.slow

# Of `finished`: controls, and policies of the search.
NUM_TRIALS = 8


@pytest.fixture(scope="module")
def run(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(finished[0], tmp_path_factory.mktemp("runs") / "run"))


@pytest.fixture(scope="module")
def records(run: Path) -> tuple[TrialRecord, ...]:
    return read_records(run / "study.db")


@contextmanager
def server(command: Sequence[str], *, port: int) -> Iterator[str]:
    """The address of a server that answers, for as long as the `with` block lasts."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline_s, "the server takes too long"
            try:
                with urllib.request.urlopen(address, timeout=10):
                    break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(address: str, **query: str) -> Any:
    """The JSON that an address answers with."""
    with urllib.request.urlopen(f"{address}?{urllib.parse.urlencode(query)}", timeout=60) as response:
        return json.load(response)


def test_optuna_dashboard_shows_every_trial_with_its_looks(run: Path, records: tuple[TrialRecord, ...]) -> None:
    port = free_port()
    program = str(Path(sys.executable).parent / "optuna-dashboard")
    command = [program, f"sqlite:///{run / 'study.db'}", "--host", "127.0.0.1", "--port", str(port)]
    shown: dict[str, Any] = {}
    with server(command, port=port) as address:
        studies = {s["study_name"]: s["study_id"] for s in answer(f"{address}/api/studies")["study_summaries"]}
        assert set(studies) == {"search", "controls"}
        for name, number in studies.items():
            trials = answer(f"{address}/api/studies/{number}", after="0")["trials"]
            started = [trial for trial in trials if trial["state"] != "Waiting"]  # the other controls are queued
            shown |= {f"{name}-{trial['number']:04d}": trial for trial in started}
    assert len(records) == NUM_TRIALS
    assert set(shown) == {record.key for record in records}
    states = {"complete": "Complete", "stopped": "Pruned"}
    for record in records:
        trial = shown[record.key]
        looks = {look["step"] / 100: look["value"] for look in trial["intermediate_values"]}
        assert looks == pytest.approx(dict(record.looks))
        assert trial["state"] == states[record.state]
        if record.distance is not None:
            assert trial["values"] == pytest.approx([record.distance])


def test_tensorboard_shows_every_look_and_policy_and_the_job(run: Path, records: tuple[TrialRecord, ...]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run / FOLDER), "--host", "127.0.0.1"]
    with server([*command, "--port", str(port), "--load_fast", "false"], port=port) as address:
        scalars = f"{address}/data/plugin/scalars"
        started = {event["key"] for event in read_events(run / "events.jsonl") if event["event"] == "item_started"}
        deadline_s = time.monotonic() + 60
        while set(answer(f"{scalars}/tags")) != started | {JOB}:  # it loads in the background
            assert time.monotonic() < deadline_s, set(answer(f"{scalars}/tags")) ^ started
            time.sleep(0.5)
        assert {record.key for record in records} < started
        for record in records:
            points = answer(f"{scalars}/scalars", run=record.key, tag="distance/by_percent_of_compute")
            looks = {step / 100: value for _, step, value in points}
            assert looks == pytest.approx(dict(record.looks), rel=1e-3, abs=1e-4)
            assert len(points) == len(looks)
            (text,) = answer(f"{address}/data/plugin/text/text", run=record.key, tag="policy/text_summary")
            assert record.policy.describe().split(":")[0] in text["text"]
        best = answer(f"{scalars}/scalars", run=JOB, tag="best_distance/by_spent_s")
        distances = [record.distance for record in records if record.distance is not None]
        assert best[-1][2] == pytest.approx(min(distances), rel=1e-3)


def test_the_page_shows_what_the_models_draw(run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    done = run_cli("report", str(run), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    html = out.read_text(encoding="utf-8")
    assert html.count("<img") == 4  # real images, image-only's, the best arm's, and the pseudo videos
    assert "No samples of" not in html
    result = json.loads((run / "result.json").read_text())
    for comparison in result["verdict"]["comparisons"]:
        assert distance_text(comparison["mean_excess"]) in html
    assert run_cli("report", str(run)).returncode == 0
    assert (run / "report.html").exists()


def test_without_its_checkpoints_a_run_still_has_a_page(run: Path, run_cli: RunCli, tmp_path: Path) -> None:
    for checkpoint in [*run.rglob("checkpoint.safetensors")]:
        os.rename(checkpoint, tmp_path / checkpoint.parent.name)
    done = run_cli("report", str(run), "--out", str(tmp_path / "page.html"))
    assert done.returncode == 0, done.stderr
    assert "No samples of image-only" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_no_run_has_no_page(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("report", str(tmp_path))
    assert done.returncode == 2
    assert "not a run folder" in done.stderr
