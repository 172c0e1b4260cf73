"""One live panel on a terminal, below the lines that tell what happened."""

import io
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.text import Text

from autopv.report.panel_drawing import draw_panel
from autopv.report.progress import clock_text, progress_lines
from autopv.report.run_state import RunState

_REFRESH_S = 0.5
# Without news only the times change.
_IDLE_REFRESH_S = 2.0
_KEPT_LINES = 50


class Panel:
    """A view for terminals. Nothing is drawn before the first event, so that what is refused at once leaves no panel.

    What others print meanwhile (a warning, say) is shown as a line above it.

    earlier: the events of the launches before this one. clock: seconds since the epoch.
    """

    def __init__(
        self, *, stream: TextIO, earlier: Iterable[Mapping[str, Any]] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._earlier, self._clock = earlier, clock
        self._state = RunState()
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._size = self._console.size
        self._lines: list[str] = []
        self._recent: deque[str] = deque(maxlen=_KEPT_LINES)
        self._stray: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._started_s = self._clock()
        self._refreshed_s = 0.0
        self._has_news = False
        self._live: Live | None = None
        self._redirected = ExitStack()

    def __enter__(self) -> Self:
        for event in self._earlier:
            self._state.take(event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the panel as it was last, and the cursor below it."""
        self._redirected.close()
        if self._live is None:
            return
        try:
            if error is None:
                self._refresh()
        finally:
            self._live.stop()

    def take(self, event: Mapping[str, Any]) -> None:
        """Learns from an event; what is to be said about it is written with the next refresh."""
        self._state.take(event)
        self._has_news = True
        for line in progress_lines(event, state=self._state):
            self.note(line)
        if self._live is None:
            self._start()

    def note(self, text: str) -> None:
        """A line above the panel, behind the time."""
        self._lines.append(f"{clock_text(self._clock() - self._started_s)} | {text}")

    def tick(self) -> None:
        """Draws, if the last time is long enough ago."""
        since_s = self._clock() - self._refreshed_s
        if self._live is not None and since_s >= (_REFRESH_S if self._has_news else _IDLE_REFRESH_S):
            self._refresh()

    def _start(self) -> None:
        self._live = self._new_live()
        for stream, redirect in ((sys.stderr, redirect_stderr), (sys.stdout, redirect_stdout)):
            if stream.isatty():
                stray = _StrayText(self._stray, behind=stream)
                self._redirected.callback(stray.let_through)
                self._redirected.enter_context(redirect(stray))

    def _new_live(self) -> Live:
        live = Live(
            _Drawing(self._draw),
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        live.start()
        return live

    def _refresh(self) -> None:
        assert self._live is not None
        self._refreshed_s, self._has_news = self._clock(), False
        while not self._stray.empty():
            self._lines.append(self._stray.get())
        self._recent.extend(self._lines)
        lines, self._lines = self._lines, []
        with self._console:  # all of it in one write: no flicker
            if self._console.size != self._size:
                self._size = self._console.size
                lines = self._start_anew()
            if lines:
                self._console.print(Text("\n".join(lines)))  # draws the panel below
            else:
                self._live.refresh()

    def _start_anew(self) -> list[str]:
        """Clears a screen on which a resize has broken the lines; returns the lines to write again."""
        assert self._live is not None
        self._live.stop()
        self._console.control(Control.home(), Control.clear())
        self._live = self._new_live()
        num_lines = max(1, self._size.height // 2)
        return list(self._recent)[-num_lines:]

    def _draw(self, width: int) -> ConsoleRenderable:
        return draw_panel(self._state, width=width, elapsed_s=self._clock() - self._started_s)


class _Drawing:
    """Drawn anew each time it is shown."""

    def __init__(self, draw: Callable[[int], ConsoleRenderable]) -> None:
        self._draw = draw

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[ConsoleRenderable]:
        yield self._draw(options.max_width)


class _StrayText(io.TextIOBase):
    """Stands in for stdout or stderr: what is written there becomes lines above the panel.

    Whoever still holds it when the panel is gone (a log handler made meanwhile, say) writes to the stream behind it.
    """

    def __init__(self, lines: "queue.SimpleQueue[str]", *, behind: TextIO) -> None:
        self._lines, self._behind = lines, behind
        self._partial = ""
        self._lets_through = False

    def let_through(self) -> None:
        """From here on, writes go to the stream behind."""
        self._lets_through = True
        if self._partial:
            self._lines.put(self._partial)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._behind.fileno()

    def flush(self) -> None:
        if self._lets_through:
            self._behind.flush()

    def write(self, text: str) -> int:
        if self._lets_through:
            return self._behind.write(text)
        *whole, self._partial = (self._partial + text).split("\n")
        for line in whole:
            self._lines.put(line)
        return len(text)
