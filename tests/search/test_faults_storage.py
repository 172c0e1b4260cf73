"""A full disk, real or as a limit to the size of files: one clear error, nothing lost, and the run goes on later."""

import contextlib
import errno
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from launching import RunCli, cli_command

from autopv.errors import DataError, StorageError
from autopv.search.events import EventLog, read_events
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.storage import storage_errors
from autopv.search.study import SearchStudy
from autopv.spaces import Space
from autopv.verify.controls import default_controls

Limit = Callable[[int], contextlib.AbstractContextManager[None]]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def fill_event_log(folder: RunFolder) -> None:
    EventLog(folder.events).emit("progress", text="x" * 10_000)


def fill_ledger(folder: RunFolder) -> None:
    ledger = Ledger(folder.ledger)
    try:
        for key in range(1000):
            ledger.grant(str(key), phase="search")
    finally:
        with contextlib.suppress(sqlite3.Error):
            ledger.close()


def fill_study(folder: RunFolder) -> None:
    space = Space.load("stage2_expressive")
    study = SearchStudy(folder.study, space=space, controls=default_controls(), seed=0, rungs=(1.0,))
    for _ in range(1000):
        study.propose(flops=1.0)


@pytest.mark.parametrize("fill", [fill_event_log, fill_ledger, fill_study])
def test_what_the_driver_cannot_write_is_one_error_with_the_way_on(
    folder: RunFolder, file_size_limit: Limit, fill: Callable[[RunFolder], None]
) -> None:
    if fill is fill_study:  # made while there is room: a study that cannot be opened is another error
        Ledger(folder.ledger).close()
        SearchStudy(folder.study, space=Space.load("stage2_expressive"), controls=(), seed=0, rungs=(1.0,))
    with (
        pytest.raises(StorageError, match="could not be written") as caught,
        storage_errors(folder),
        file_size_limit(8_000 if fill is fill_event_log else 300_000),
    ):
        fill(folder)
    assert f"go on by `autopv resume {folder.path}`" in str(caught.value)
    assert "MB are free there" in str(caught.value)


def test_other_errors_pass_as_they_are(folder: RunFolder) -> None:
    with pytest.raises(DataError, match="no images"), storage_errors(folder):
        raise DataError("no images")
    with pytest.raises(FileNotFoundError), storage_errors(folder):
        raise FileNotFoundError(errno.ENOENT, "no such file", "x")


def test_an_error_that_came_of_a_full_disk_is_seen_through(folder: RunFolder) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y")
    with pytest.raises(StorageError, match=r"/x/y could not be written \(No space left"), storage_errors(folder):
        raise optuna.exceptions.StorageInternalError("an exception is raised during the commit") from full


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 128 MB."""
    path = Path(tempfile.mkdtemp(prefix="pv-disk"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", str(path)], capture_output=True)
    try:
        if mounted.returncode != 0:
            pytest.skip("only root may mount a small file system")
        yield path
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


@pytest.mark.slow
def test_a_job_on_a_full_disk_stops_and_goes_on_once_there_is_room(
    small_disk: Path, image_file: Path, quick_metric: str, run_cli: RunCli
) -> None:
    run, filler = small_disk / "run", small_disk / "filler"
    short = ("--trial-steps", "12", "--seeds", "1", "--workers", "1", "--budget", "7trials")
    data = ("--data", str(image_file), "--metric", quick_metric)
    command = cli_command(["search", *data, "--out", str(run), *short])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_for_end_of_item(run, process)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**12))
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 1, stderr
    assert "Traceback" not in stderr
    assert stderr.count("could not be written") == 1
    assert f"go on by `autopv resume {run}`" in stderr
    filler.unlink()
    ended = {event["key"] for event in read_events(run / "events.jsonl") if event["event"] == "item_ended"}
    assert ended
    done = run_cli("resume", str(run))
    assert done.returncode == 0, done.stderr
    events = list(read_events(run / "events.jsonl"))
    last_launch = max(number for number, event in enumerate(events) if event["event"] == "launched")
    later = events[last_launch:]
    assert not {event["key"] for event in later if event["event"] == "item_started"} & ended, "nothing finished is lost"
    assert not [event for event in events if event["event"] == "item_ended" and event["status"] == "failed"]


def wait_for_end_of_item(run: Path, process: "subprocess.Popen[str]") -> None:
    deadline_s = time.monotonic() + 240
    while not any(event["event"] == "item_ended" for event in read_events(run / "events.jsonl")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline_s, "the job takes too long"
        time.sleep(0.05)
