"""What TensorBoard reads of a search: every look once, also after crashes, and while it runs."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from autopv.search.board import FILE_NAME, FOLDER, JOB, Board
from autopv.search.events import EventLog
from autopv.search.run_folder import RunFolder

POLICY = "T=4 order=1 fresh weight=0.1: gaussian_blur sigma=0.06 linear 1-3"


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def driver(folder: RunFolder) -> EventLog:
    """The event log of one launch, with a board that starts from what is there."""
    return EventLog(folder.events, listener=Board(folder))


def start(log: EventLog, key: str) -> None:
    log.emit("item_started", phase="search", key=key, label=key, seed=7, policy=POLICY)


def look(log: EventLog, key: str, *, fraction: float, distance: float, spent_s: float, phase: str = "search") -> None:
    fields: Mapping[str, Any] = {"steps": round(100 * fraction), "goes_on": fraction < 1, "spent_s": spent_s}
    log.emit("look", phase=phase, key=key, label=key, fraction=fraction, distance=distance, **fields)


def end(log: EventLog, key: str, *, spent_s: float) -> None:
    log.emit("item_ended", phase="search", key=key, label=key, status="complete", spent_s=spent_s)


def points(folder: RunFolder, run: str, tag: str) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder.path / FOLDER / run))
    reader.Reload()
    return [(point.step, round(point.value, 3)) for point in reader.Scalars(tag)]


def files(folder: RunFolder) -> dict[str, bytes]:
    root = folder.path / FOLDER
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob(FILE_NAME)}


def test_an_item_shows_its_distance_by_steps_and_by_compute_and_its_policy(folder: RunFolder) -> None:
    log = driver(folder)
    start(log, "search-0001")
    look(log, "search-0001", fraction=0.5, distance=30.5, spent_s=4)
    look(log, "search-0001", fraction=1.0, distance=20.25, spent_s=8)
    assert points(folder, "search-0001", "distance/by_percent_of_compute") == [(50, 30.5), (100, 20.25)]
    assert points(folder, "search-0001", "distance/by_steps") == [(50, 30.5), (100, 20.25)]
    reader = EventAccumulator(str(folder.path / FOLDER / "search-0001"))
    reader.Reload()
    (text,) = reader.Tensors("policy/text_summary")
    assert POLICY in text.tensor_proto.string_val[0].decode()
    assert "seed" in text.tensor_proto.string_val[0].decode()


def test_the_job_shows_the_best_distance_of_the_search_and_what_was_spent(folder: RunFolder) -> None:
    log = driver(folder)
    for key, distance, spent_s in (("a", 30, 10), ("b", 40, 20), ("c", 25, 30)):
        look(log, key, fraction=0.5, distance=1, spent_s=spent_s - 5)  # not at full compute
        look(log, key, fraction=1, distance=distance, spent_s=spent_s)
        end(log, key, spent_s=spent_s)
    look(log, "verify-a-1", fraction=1, distance=2, spent_s=40, phase="verify")  # on another split
    assert points(folder, JOB, "best_distance/by_spent_s") == [(10, 30), (30, 25)]
    assert points(folder, JOB, "spent_s/by_items_ended") == [(1, 10), (2, 20), (3, 30)]


def test_a_resume_doubles_nothing_and_goes_on(folder: RunFolder) -> None:
    log = driver(folder)
    start(log, "a")
    look(log, "a", fraction=0.5, distance=3, spent_s=1)
    before = files(folder)
    log = driver(folder)
    assert files(folder) == before
    start(log, "a")
    look(log, "a", fraction=0.5, distance=3, spent_s=2)  # a worker shows again what it took over
    look(log, "a", fraction=1, distance=2, spent_s=3)
    assert points(folder, "a", "distance/by_percent_of_compute") == [(50, 3), (100, 2)]


def test_wherever_the_driver_died_the_files_become_what_they_would_have_been(folder: RunFolder) -> None:
    log = driver(folder)
    start(log, "a")
    look(log, "a", fraction=1, distance=3, spent_s=1)
    whole = files(folder)[f"a/{FILE_NAME}"]
    path = folder.path / FOLDER / "a" / FILE_NAME
    for length in range(len(whole)):
        os.truncate(path, length)
        Board(folder)
        assert path.read_bytes() == whole
    path.unlink()
    Board(folder)
    assert path.read_bytes() == whole


def test_a_file_of_other_bytes_is_replaced(folder: RunFolder) -> None:
    log = driver(folder)
    start(log, "a")
    whole = files(folder)
    (folder.path / FOLDER / "a" / FILE_NAME).write_bytes(b"another version wrote this in another way")
    Board(folder)
    assert files(folder) == whole


def test_a_reader_follows_a_running_search(folder: RunFolder) -> None:
    log = driver(folder)
    start(log, "a")
    look(log, "a", fraction=0.5, distance=3, spent_s=1)
    reader = EventAccumulator(str(folder.path / FOLDER / "a"))
    reader.Reload()
    assert len(reader.Scalars("distance/by_steps")) == 1
    look(log, "a", fraction=1, distance=2, spent_s=2)
    reader.Reload()
    assert [point.value for point in reader.Scalars("distance/by_steps")] == [3, 2]


def test_what_a_full_disk_refused_is_written_later(folder: RunFolder, file_size_limit: Any) -> None:
    board = Board(folder)
    event = {"time": 1.0, "event": "look", "phase": "search", "key": "a", "spent_s": 1.0, "distance": 2.0, "steps": 5}
    with file_size_limit(40):
        board({**event, "fraction": 0.5})
    board({**event, "fraction": 1.0})
    assert [step for step, _ in points(folder, "a", "distance/by_percent_of_compute")] == [50, 100]


def test_events_are_handed_on(folder: RunFolder) -> None:
    heard: list[Mapping[str, Any]] = []
    log = EventLog(folder.events, listener=Board(folder, listener=heard.append))
    end(log, "a", spent_s=3)
    assert heard == [json.loads(folder.events.read_text())]
