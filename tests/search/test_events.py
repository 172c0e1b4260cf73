"""Every event is documented, in the code and in what a real run writes; a log survives a cut line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import autopv
from autopv.search.events import EVENTS, EventLog, read_events

_EMITTERS = ("emit", "event_record")


def emitted() -> Iterator[tuple[str, str, set[str]]]:
    """(place, event, fields) for every event that the code emits under a literal name."""
    package = Path(autopv.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in _EMITTERS:
                place = f"{path.relative_to(package)}:{node.lineno}"
                yield place, str(node.args[0].value), {keyword.arg or "**" for keyword in node.keywords}


def test_every_event_is_documented_with_its_fields() -> None:
    for place, event, fields in emitted():
        assert event in EVENTS, f"{place} emits {event!r}, which autopv.search.events.EVENTS does not know"
        if "**" not in fields:
            assert fields == set(EVENTS[event]), f"{place}: the fields of {event!r} differ from EVENTS"


def test_every_documented_event_is_emitted() -> None:
    assert {event for _, event, _ in emitted()} == set(EVENTS)


def test_an_event_after_a_cut_line_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "worker_lost", "key": "a", "label": "a"}\n{"event": "progr')
    EventLog(path).emit("worker_lost", key="search-0001", label="random-1")
    assert [event["event"] for event in read_events(path)] == ["worker_lost", "worker_lost"]


def test_a_listener_is_told_what_is_written(tmp_path: Path) -> None:
    told: list[object] = []
    log = EventLog(tmp_path / "events.jsonl", listener=told.append)
    log.emit("worker_lost", key="search-0001", label="random-1")
    assert told == list(read_events(tmp_path / "events.jsonl"))


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_no_field_is_called_as_what_every_record_has(event: str) -> None:
    assert not {"time", "event"} & set(EVENTS[event])
