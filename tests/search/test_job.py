"""Whole jobs from the command line, with real Ray, real files and real models; also when they are killed."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launching import RunCli, cli_command

from autopv.policy import Policy
from autopv.search.events import read_events
from autopv.search.study import read_records

pytestmark = pytest.mark.slow

SHORT = ("--trial-steps", "12", "--seeds", "1", "--workers", "1")


def search(data: Sequence[str], out: Path, *, budget: str) -> list[str]:
    return ["search", *data, "--budget", budget, "--out", str(out), *SHORT]


def result_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record


@pytest.fixture(scope="module")
def read_only(image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The images, in a folder of their own in which nobody may write (but root may)."""
    folder = tmp_path_factory.mktemp("read_only")
    path = folder / "images.npy"
    shutil.copy(image_file, path)
    for made in (path, folder):
        made.chmod(0o555)
    yield path
    folder.chmod(0o755)


@pytest.fixture(scope="module")
def data(read_only: Path, quick_metric: str) -> tuple[str, ...]:
    """Options that name the images and the metric of every job here."""
    return ("--data", str(read_only), "--metric", quick_metric)


@pytest.fixture(scope="module")
def finished(data: tuple[str, ...], run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 8 trials and one block, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    done = run_cli(*search(data, out, budget="8trials"))
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_a_job_leaves_the_documented_run_folder(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for name in ("run.json", "study.db", "ledger.db", "events.jsonl", "space.toml", "result.json"):
        assert (folder / name).is_file(), name
    for name in ("preview.png", "samples.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG"), name
    recommended, best = Policy.load(folder / "policy.json"), Policy.load(folder / "best_found.json")
    assert recommended.is_image_only
    assert not best.is_image_only
    assert recommended.provenance is not None
    assert recommended.provenance["conclusion"] == "not enough evidence"
    assert (folder / "model" / "checkpoint.safetensors").is_file()


def test_data_may_be_read_only_and_nothing_is_written_beside_it(
    finished: tuple[Path, str], read_only: Path, image_file: Path
) -> None:
    assert result_of(finished[0])["trials"]
    assert [path.name for path in read_only.parent.iterdir()] == ["images.npy"]
    assert read_only.read_bytes() == image_file.read_bytes()
    assert np.load(read_only, mmap_mode="r").shape == (160, 16, 16)


def test_the_summary_says_what_is_in_the_folder(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    verdict = result_of(folder)["verdict"]
    assert verdict["sentence"] in printed
    assert verdict["conclusion"] == "not enough evidence"
    for arm in ("image-only", "gaussian-noise", "gaussian-blur", "pixelate", "random-1", "random-2"):
        assert arm in printed


def test_all_trials_ended_and_controls_at_full_compute(finished: tuple[Path, str]) -> None:
    records = read_records(finished[0] / "study.db")
    assert len(records) == 8
    assert {record.state for record in records} <= {"complete", "stopped"}
    assert all(record.state == "complete" for record in records if record.control is not None)


def test_no_trial_saw_the_final_split(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    events = list(read_events(folder / "events.jsonl"))
    verify_began = next(e["time"] for e in events if e["event"] == "phase" and e["phase"] == "verify")
    assert all(e["time"] <= verify_began for e in events if e["event"] == "look" and e["phase"] == "search")
    assert (folder / "metrics" / "final.safetensors").stat().st_mtime >= verify_began - 0.01


def test_equal_seeds_give_equal_proposals_and_distances(
    finished: tuple[Path, str], data: tuple[str, ...], run_cli: RunCli, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    assert run_cli(*search(data, again, budget="8trials")).returncode == 0
    assert result_of(again)["trials"] == result_of(finished[0])["trials"]
    assert result_of(again)["verdict"] == result_of(finished[0])["verdict"]


def test_stopped_and_killed_a_job_goes_on_without_loss(
    finished: tuple[Path, str], data: tuple[str, ...], run_cli: RunCli, tmp_path: Path
) -> None:
    """Ctrl-C, SIGTERM and kill -9 in one job, then to its end, which must be that of the run never stopped."""
    out = tmp_path / "stopped"
    command = search(data, out, budget="8trials")
    spent_before = 0.0
    for number, num_looks, code in ((signal.SIGINT, 1, 130), (signal.SIGTERM, 5, 143), (signal.SIGKILL, 12, -9)):
        process = start(command)
        wait_for_looks(out / "events.jsonl", count=num_looks, process=process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=90)
        assert process.returncode == code, stderr
        assert "Traceback" not in stderr
        assert number == signal.SIGKILL or f"autopv resume {out}" in stderr
        assert spent(out) >= spent_before, "what was spent is remembered"
        spent_before = spent(out)
        command = ["resume", str(out)]
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    assert repeated(out) == set()
    assert {record.state for record in read_records(out / "study.db")} <= {"complete", "stopped"}
    assert result_of(out)["trials"] == result_of(finished[0])["trials"]
    assert result_of(out)["verdict"] == result_of(finished[0])["verdict"]
    assert spent(out) >= spent_before


STOPPED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from autopv.search.budget import Budget
from autopv.search.job import SearchRequest, start_job

def stop(event):
    # With one worker nothing is under way when a trial has just ended.
    if event["event"] == "item_ended":
        os.kill(os.getpid(), signal.SIGINT)

request = SearchRequest(data=sys.argv[1], out=Path(sys.argv[2]), budget=Budget.parse("8trials"),
                        num_seeds=1, num_workers=1, trial_steps=12)
try:
    start_job(request, listener=stop)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_stop_between_two_trials_is_heard(image_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "between"
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_BETWEEN, str(image_file), str(out)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 130, done.stderr
    assert len([record for record in read_records(out / "study.db") if record.state == "complete"]) <= 2


def test_beside_a_second_driver_and_with_a_killed_worker_a_job_ends_as_if_undisturbed(
    finished: tuple[Path, str], data: tuple[str, ...], run_cli: RunCli, tmp_path: Path
) -> None:
    """The second driver is refused, `status` works meanwhile, and a killed worker's trial goes on in a new one."""
    out = tmp_path / "worker"
    process = start(search(data, out, budget="8trials"))
    wait_for_looks(out / "events.jsonl", count=3, process=process)
    for worker in workers_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    second = run_cli("resume", str(out))
    assert second.returncode == 2
    assert f"process {process.pid}" in second.stderr
    status = run_cli("status", str(out))
    assert status.returncode == 0
    assert "searching" in status.stdout or "verifying" in status.stdout
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "lost its worker" in stderr
    assert result_of(out)["trials"] == result_of(finished[0])["trials"]


def test_a_finished_run_is_verified_further_and_searched_further(
    finished: tuple[Path, str], run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "extended"
    shutil.copytree(finished[0], out)
    before = result_of(out)
    done = run_cli("resume", str(out), "--more-seeds", "1")
    assert done.returncode == 0, done.stderr
    seeds = result_of(out)["verdict"]["seeds"]
    assert len(seeds) == 2
    assert seeds[0] == before["verdict"]["seeds"][0]
    assert result_of(out)["trials"] == before["trials"]
    refused = run_cli("resume", str(out), "--budget", "+1cpu-h")
    assert refused.returncode == 2
    assert "no limit on device time" in refused.stderr
    done = run_cli("resume", str(out), "--budget", "+2trials")
    assert done.returncode == 0, done.stderr
    after = result_of(out)
    assert after["budget"] == "10trials"
    assert after["trials"][: len(before["trials"])] == before["trials"] or len(after["trials"]) == 10
    assert after["verdict"]["seeds"] == seeds, "also with arms that are new, no seed is lost"
    assert {arm["name"] for arm in before["arms"]} <= {arm["name"] for arm in after["arms"]}


def test_a_time_budget_holds(data: tuple[str, ...], run_cli: RunCli, tmp_path: Path) -> None:
    out = tmp_path / "timed"
    done = run_cli(*search(data, out, budget="90cpu-s"))
    assert done.returncode == 0, done.stderr
    assert result_of(out)["spent_s"] <= 90 * 1.02
    assert "RUNNING" not in states(out)


def start(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    """Starts `autopv ARGUMENTS` in a session of its own."""
    return subprocess.Popen(
        cli_command(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_looks(events: Path, *, count: int, process: "subprocess.Popen[str]", timeout_s: float = 180) -> None:
    """Returns once the log holds that many measurements (or the process has ended)."""
    deadline_s = time.monotonic() + timeout_s
    while process.poll() is None and sum(e["event"] == "look" for e in read_events(events)) < count:
        assert time.monotonic() < deadline_s, "the job takes too long"
        time.sleep(0.05)


def repeated(folder: Path) -> set[str]:
    """Items that were started again after they had ended."""
    over: set[str] = set()
    again: set[str] = set()
    for event in read_events(folder / "events.jsonl"):
        if event["event"] == "item_started" and event["key"] in over:
            again.add(event["key"])
        if event["event"] == "item_ended":
            over.add(event["key"])
    return again


def spent(folder: Path) -> float:
    with sqlite3.connect(folder / "ledger.db") as db:
        return float(db.execute("select coalesce(sum(ended - started), 0) from segments").fetchone()[0])


def states(folder: Path) -> set[str]:
    with sqlite3.connect(folder / "study.db") as db:
        return {row[0] for row in db.execute("select state from trials")}


def workers_of(driver: int) -> list[int]:
    """The processes in which Ray runs trials for this driver, by the session they share."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes()
            session = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3])
        except OSError:
            continue
        if name.startswith(b"ray::ResourceTrainable") and session == driver:
            found.append(int(folder.name))
    return found
