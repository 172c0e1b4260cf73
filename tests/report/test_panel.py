"""The live panel: what it shows, on which terminals, and what it leaves behind."""

import io
import sys

import pytest
from rich.console import Console, ConsoleDimensions
from screen import Screen
from told import Event, Story, searched, verified

from autopv.report.panel import Panel
from autopv.report.panel_drawing import draw_panel
from autopv.report.run_state import RunState
from autopv.verify.statistics import MIN_BLOCKS


def drawn(*events: Event, width: int = 84) -> str:
    state = RunState()
    for event in events:
        state.take(event)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(draw_panel(state, width=width, elapsed_s=312.0))
    return capture.get()


class Terminal(io.StringIO):
    """Stands in for a terminal; keeps each write."""

    encoding = "utf-8"

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self.writes.append(text)
        return super().write(text)


class Clock:
    def __init__(self) -> None:
        self.now_s = 5000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "80"), ("LINES", "30")):
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_a_search_shows_budget_best_trials_by_rung_and_failures() -> None:
    text = drawn(*searched().events)
    for part in (
        "search, 5.2 min, 2 workers",
        "of 10.0 cpu-min spent",
        "min at this rate",
        "3.5 of it kept back for the verification",
        "gaussian-blur: excess 450.0 (-10.0%, image-only 500.0)",
        "no interval yet",
        "6 started: 2 running, 2 complete, 1 stopped, 1 failed",
        "rung  50%: 1 running to it, 1 stopped, 3 went on",
        "rung 100%: 1 running to it, 2 complete",
        "search-0003 71%, search-0004 22%",
        "1 x the loss is nan at step #",
    ):
        assert part in text


def test_while_image_only_is_not_measured_nothing_is_compared() -> None:
    story = Story().planned().search().start("controls-0000", label="image-only").whole("search-0000", distance=550.0)
    assert "image-only is not measured yet" in drawn(*story.events)
    story.look("controls-0000", distance=500.0).end("controls-0000", "complete")
    assert "no other trial is below it" in drawn(*story.events)


def test_a_verification_shows_the_interval_once_there_are_blocks_for_it() -> None:
    assert "no block is complete yet" in drawn(*verified(num_blocks=0).events)
    few = drawn(*verified(num_blocks=MIN_BLOCKS - 1).events)
    assert f"an interval needs {MIN_BLOCKS}" in few
    enough = drawn(*verified(num_blocks=MIN_BLOCKS).events)
    assert "gaussian-blur: -19% of image-only's excess" in enough
    assert "95% interval" in enough
    assert f"{MIN_BLOCKS} fresh seeds per arm" in enough
    assert f"{MIN_BLOCKS} complete blocks" in enough


def test_many_running_trials_are_summed_up() -> None:
    story = Story().planned(num_workers=64).search()
    for number in range(64):
        story.start(f"search-{number}").progress(f"search-{number}", number / 64)
    text = drawn(*story.events)
    assert "64 at 0% to 98%, half of them past 49%" in text
    assert len(text.splitlines()) < 15


@pytest.mark.parametrize("width", [40, 60, 84, 300])
def test_the_panel_fits_every_width_with_room_for_an_echoed_interrupt(width: int) -> None:
    for events in (searched().events, verified(num_blocks=3).events, [], searched().events[:1]):
        rows = drawn(*events, width=width).splitlines()
        assert max(len(row) for row in rows) <= width - 4
        assert len({len(row) for row in rows}) == 1


def test_at_60_columns_nothing_of_the_budget_is_cut() -> None:
    text = " ".join(line.strip("│ ") for line in drawn(*searched().events, width=60).splitlines())
    assert "of 10.0 cpu-min spent" in text
    assert "kept back for the verification" in text


def test_a_terminal_without_unicode_gets_plain_characters() -> None:
    state = RunState()
    for event in searched().events:
        state.take(event)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=stream, width=80, force_terminal=True, color_system=None).print(
        draw_panel(state, width=80, elapsed_s=1.0)
    )
    stream.flush()
    assert "####" in stream.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_events_scroll_above_one_panel_and_the_cursor_comes_back(terminal: Terminal) -> None:
    clock = Clock()
    with Panel(stream=terminal, clock=clock) as panel:
        for event in searched().events:
            clock.now_s += 1.0
            panel.take(event)
            panel.tick()
    screen = Screen(width=80)
    screen.write(terminal.getvalue())
    text = screen.text()
    assert text.count("╭─ autopv") == 1
    assert text.endswith("╯")
    assert text.index("gaussian-blur  full compute") < text.index("╭─ autopv") < text.index("search-0004 22%")
    assert "search-0002    failed: the loss is nan at step 17" in text
    assert screen.cursor_shown
    assert terminal.getvalue().endswith("\n\x1b[?25h")


def test_it_is_drawn_at_most_twice_a_second_and_each_time_in_one_write(terminal: Terminal) -> None:
    clock = Clock()
    with Panel(stream=terminal, clock=clock) as panel:
        panel.take(searched().events[0])
        panel.tick()
        before = len(terminal.writes)
        for number in range(100):
            clock.now_s += 0.02
            panel.take(Story().start(f"search-{number}").events[0])
            panel.tick()
        assert len(terminal.writes) - before <= 4
        before = len(terminal.writes)
        clock.now_s += 2.1
        panel.tick()
        panel.tick()
        assert len(terminal.writes) - before == 1


def test_what_others_print_meanwhile_goes_above_the_panel(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    clock = Clock()
    with Panel(stream=terminal, clock=clock) as panel:
        panel.take(searched().events[0])
        kept = sys.stderr
        kept.write("a stray line\nand half of one")
        clock.now_s += 1.0
        panel.tick()
    assert sys.stderr is terminal
    kept.write("a log handler's line\n")
    assert terminal.getvalue().endswith("a log handler's line\n")
    screen = Screen(width=80)
    screen.write(terminal.getvalue())
    assert "and half of one" in screen.text()
    assert screen.text().index("a stray line") < screen.text().index("╭─ autopv")
    assert screen.text().count("╭─ autopv") == 1


@pytest.mark.parametrize("width", [60, 120])
def test_a_resized_terminal_shows_one_panel_of_the_new_width(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    clock = Clock()
    events = searched().events
    with Panel(stream=terminal, clock=clock) as panel:
        for event in events[:-1]:
            clock.now_s += 1.0
            panel.take(event)
            panel.tick()
        written = len(terminal.getvalue())
        monkeypatch.setattr(Console, "size", ConsoleDimensions(width, 30))
        clock.now_s += 1.0
        panel.take(events[-1])
        panel.tick()
    screen = Screen(width=width)
    screen.write(terminal.getvalue()[written:])
    text = screen.text()
    assert text.count("╭─ autopv") == 1
    assert max(len(row) for row in screen.rows) <= width
    assert "search-0002    failed" in text, "the last lines are written again"


def test_without_colour_no_colour_is_written(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> str:
        with Panel(stream=terminal) as panel:
            for event in searched().events:
                panel.take(event)
        return terminal.getvalue()

    assert "\x1b[31m" in written()
    terminal.seek(0)
    terminal.truncate()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in written()
    assert "\x1b[9" not in written()


def test_before_the_first_event_nothing_is_drawn(terminal: Terminal) -> None:
    with Panel(stream=terminal, earlier=searched().events) as panel:
        panel.tick()
    assert terminal.getvalue() == ""


def test_a_failure_leaves_the_panel_and_a_fresh_line(terminal: Terminal) -> None:
    def job() -> None:
        with Panel(stream=terminal) as panel:
            panel.take(searched().events[0])
            panel.tick()
            raise KeyError

    with pytest.raises(KeyError):
        job()
    screen = Screen(width=80)
    screen.write(terminal.getvalue())
    assert screen.cursor_shown
    assert screen.text().endswith("╯")
