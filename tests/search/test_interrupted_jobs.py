"""Whole jobs that are interrupted and killed, and that must end as if nothing had been."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from launching import RunCli, cli_command, result_of, search

from autopv.search.events import read_events
from autopv.search.study_file import read_records

pytestmark = pytest.mark.slow


def test_stopped_and_killed_a_job_goes_on_without_loss(
    finished: tuple[Path, str], data: tuple[str, ...], run_cli: RunCli, tmp_path: Path
) -> None:
    """Ctrl-C and kill -9 in one job, then to its end, which must be that of the run with its seed never stopped."""
    out = tmp_path / "stopped"
    command = search(data, out, budget="8trials")
    spent_before = 0.0
    for number, num_looks, code in ((signal.SIGINT, 3, 130), (signal.SIGKILL, 12, -9)):
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
    finished: tuple[Path, str], data: tuple[str, ...], tmp_path: Path
) -> None:
    """The second driver is refused, `status` works meanwhile, and a killed worker's trial goes on in a new one."""
    out = tmp_path / "worker"
    process = start(search(data, out, budget="8trials"))
    wait_for_looks(out / "events.jsonl", count=3, process=process)
    for worker in workers_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    # Both at once: on a busy machine the job might end while the second of them starts.
    second, status = start(["resume", str(out)]), start(["status", str(out)], stdout=subprocess.PIPE)
    _, refusal = second.communicate(timeout=300)
    assert second.returncode == 2
    assert f"process {process.pid}" in refusal
    told, _ = status.communicate(timeout=300)
    assert status.returncode == 0
    assert "searching" in told or "verifying" in told
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "lost its worker" in stderr
    assert result_of(out)["trials"] == result_of(finished[0])["trials"]


def start(arguments: Sequence[str], *, stdout: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    """Starts `autopv ARGUMENTS` in a session of its own."""
    return subprocess.Popen(
        cli_command(arguments), stdout=stdout, stderr=subprocess.PIPE, text=True, start_new_session=True
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
