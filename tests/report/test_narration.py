"""A job is shown on threads of their own, and nothing that goes wrong there reaches it."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from screen import Screen
from told import Event, searched

from autopv.report import panel
from autopv.report.narration import Channel, View, narration


class Told:
    """A view that remembers, and fails where it is told to."""

    def __init__(self, *, fails_at: str | None = None, waits: threading.Event | None = None) -> None:
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.closed = False
        self._fails_at, self._waits = fails_at, waits

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closed = True

    def take(self, event: Mapping[str, Any]) -> None:
        if self._waits is not None:
            self._waits.wait()
        if event["event"] == self._fails_at:
            raise ZeroDivisionError("a mistake in drawing")
        self.events.append(event)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def tick(self) -> None:
        pass


def views(*made: Told) -> list[Callable[[], View]]:
    return [lambda view=view: view for view in made]  # type: ignore[misc]


class TerminalText(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, text: str, /) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return 1


def test_everything_is_shown_before_the_block_ends() -> None:
    view = Told()
    with Channel(views(view)) as channel:
        for number in range(200):
            channel.put({"event": "progress", "number": number})
    assert [event["number"] for event in view.events] == list(range(200))
    assert view.closed
    assert channel.failure is None


def test_when_a_view_fails_the_next_goes_on_and_says_so() -> None:
    first, second = Told(fails_at="look"), Told()
    with Channel(views(first, second)) as channel:
        for event in ("planned", "look", "item_ended"):
            channel.put({"event": event})
            time.sleep(0.05)
    assert [event["event"] for event in first.events] == ["planned"]
    assert [event["event"] for event in second.events] == ["item_ended"]
    assert "ZeroDivisionError: a mistake in drawing" in second.notes[0]
    assert first.closed
    assert second.closed


def test_a_failure_with_the_last_event_is_told_too() -> None:
    first, second = Told(fails_at="look"), Told()
    with Channel(views(first, second)) as channel:
        channel.put({"event": "look"})
    assert "a mistake in drawing" in second.notes[0]


def test_after_the_last_view_there_is_silence() -> None:
    with Channel(views(Told(fails_at="look"), Told(fails_at="look"))) as channel:
        for _ in range(5):
            channel.put({"event": "look"})
            time.sleep(0.02)
    assert isinstance(channel.failure, ZeroDivisionError)


def test_a_view_that_is_blocked_does_not_hold_up_the_job() -> None:
    released = threading.Event()
    view = Told(waits=released)
    with Channel(views(view)) as channel:
        began_s = time.monotonic()
        for _ in range(1000):
            channel.put({"event": "progress"})
        assert time.monotonic() - began_s < 1.0
        released.set()
    assert len(view.events) == 1000


def shown(
    monkeypatch: pytest.MonkeyPatch, *, as_json: bool, stdout: io.StringIO, stderr: io.StringIO, term: str = "xterm"
) -> tuple[str, str]:
    """What `narration` writes to stdout and stderr of a search."""
    for name, value in (("TERM", term), ("COLUMNS", "80"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    with narration(as_json=as_json) as listener:
        for event in searched().events:
            listener(event)
    return stdout.getvalue(), stderr.getvalue()


def test_a_terminal_gets_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = shown(monkeypatch, as_json=False, stdout=TerminalText(), stderr=TerminalText())
    assert out == ""
    assert "╭─ autopv" in err


@pytest.mark.parametrize("term", ["dumb", "unknown", ""])
def test_a_terminal_that_cannot_move_the_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    _, err = shown(monkeypatch, as_json=False, stdout=TerminalText(), stderr=TerminalText(), term=term)
    assert "\x1b" not in err
    assert "best so far 550.0 (gaussian-blur)" in err


def test_a_pipe_gets_lines_even_where_colour_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, err = shown(monkeypatch, as_json=False, stdout=io.StringIO(), stderr=io.StringIO())
    assert "\x1b" not in err
    assert "best so far 550.0 (gaussian-blur)" in err


def test_json_is_one_event_a_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = shown(monkeypatch, as_json=True, stdout=io.StringIO(), stderr=io.StringIO())
    assert [json.loads(line) for line in out.splitlines()] == searched().events
    assert err == ""


@pytest.mark.parametrize("stdout", [io.StringIO, TerminalText])
def test_beside_json_in_a_file_a_terminal_still_gets_the_panel(
    monkeypatch: pytest.MonkeyPatch, stdout: type[io.StringIO]
) -> None:
    out, err = shown(monkeypatch, as_json=True, stdout=stdout(), stderr=TerminalText())
    assert [json.loads(line) for line in out.splitlines()] == searched().events
    assert ("╭─ autopv" in err) == (stdout is io.StringIO)


def test_a_mistake_in_drawing_costs_the_panel_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise TypeError("cannot draw this")

    monkeypatch.setattr(panel, "draw_panel", broken)
    stderr = TerminalText()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stderr)
    with narration(as_json=False) as listener:
        for event in searched().events:
            listener(event)
            time.sleep(0.02)
    assert sys.stderr is stderr
    screen = Screen(width=200)
    screen.write(stderr.getvalue())
    assert "The view failed (TypeError: cannot draw this); the job goes on." in screen.text()
    assert "search-0002    failed" in screen.text()
    assert screen.cursor_shown


def test_a_reader_that_leaves_does_not_end_the_job_but_is_told_of_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = ClosedPipe()
    with (tmp_path / "stdout").open("w") as spare:
        monkeypatch.setattr(out, "fileno", spare.fileno)
        monkeypatch.setattr(sys, "stdout", out)
        told: list[Event] = []

        def job() -> None:
            with narration(as_json=True) as listener:
                for event in searched().events:
                    listener(event)
                    told.append(event)
                    time.sleep(0.01)

        with pytest.raises(BrokenPipeError):
            job()
    assert told == searched().events
