"""Shows a job while it runs, on threads of its own: whatever goes wrong there, or blocks, the job does not feel it."""

import os
import queue
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

from autopv.search.events import Listener

_TICK_S = 0.5


class View(Protocol):
    """Shows events to someone. All of its methods are called on one thread, between `__enter__` and `__exit__`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def take(self, event: Mapping[str, Any]) -> None:
        """Takes the next event."""

    def note(self, text: str) -> None:
        """Takes a line that is no event."""

    def tick(self) -> None:
        """Called after every event, and twice a second without one."""


@contextmanager
def narration(*, as_json: bool, earlier: Callable[[], Iterable[Mapping[str, Any]]] | None = None) -> Iterator[Listener]:
    """A listener for `start_job` and `resume_job` that shows the job as long as the `with` block lasts.

    On stderr people are shown a panel on a terminal, plain lines elsewhere. as_json: events go to stdout as JSON lines
    instead; beside them the panel is shown only if stderr is a terminal and stdout is not.
    earlier: the events of the launches before this one, oldest first.
    """
    channels = [Channel(views) for views in _outputs(as_json=as_json, earlier=earlier)]

    def listener(event: Mapping[str, Any]) -> None:
        for channel in channels:
            channel.put(event)

    try:
        with ExitStack() as stack:
            for channel in channels:
                stack.enter_context(channel)
            yield listener
    finally:
        gone = channels[0].failure if as_json else None
        if isinstance(gone, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python ends in trying once more
    if isinstance(gone, OSError):
        raise gone  # the job is done, but whoever was to read its result did not get it


class Channel:
    """Hands events to a view on a thread. If the view fails the next one goes on from there; after the last, silence.

    The failure of a view is kept, not raised: a mistake in drawing, a closed pipe or a lost terminal costs no run.
    """

    def __init__(self, views: Sequence[Callable[[], View]]) -> None:
        self._views = list(views)
        self._events: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="autopv-view")
        self._shown: Future[None] | None = None
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._start_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits until everything is shown."""
        self._events.put(None)
        while self._shown is not None:
            self.failure = self._shown.exception() or self.failure
            if self._shown.exception() is None:
                break
            self._events.put(None)
            self._start_next()
        self._thread.shutdown()

    def put(self, event: Mapping[str, Any]) -> None:
        """Hands over one event; returns at once, whatever the view does."""
        if self._shown is not None and self._shown.done():
            self.failure = self._shown.exception()
            self._start_next()
        if self._shown is not None:
            self._events.put(event)

    def _start_next(self) -> None:
        failed = self.failure
        note = None if failed is None else f"The view failed ({type(failed).__name__}: {failed}); the job goes on."
        self._shown = self._thread.submit(self._show, self._views.pop(0), note) if self._views else None

    def _show(self, make_view: Callable[[], View], note: str | None) -> None:
        with make_view() as view:
            if note is not None:
                view.note(note)
            while True:
                try:
                    event = self._events.get(timeout=_TICK_S)
                except queue.Empty:
                    view.tick()
                    continue
                if event is None:
                    return
                view.take(event)
                view.tick()


def _outputs(
    *, as_json: bool, earlier: Callable[[], Iterable[Mapping[str, Any]]] | None
) -> list[list[Callable[[], View]]]:
    """The views of each channel, the first choice first; JSON, where it is asked for, in the first channel."""
    from autopv.report.event_lines import EventLines
    from autopv.report.progress import ProgressLines

    stdout, stderr = sys.stdout, sys.stderr
    before = earlier or tuple

    def panel() -> View:
        from autopv.report.panel import Panel

        return Panel(stream=stderr, earlier=before())

    def lines() -> View:
        return ProgressLines(stream=stderr, earlier=before())

    # Where TERM is unknown, so is whether the cursor can be moved.
    is_terminal = stderr.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    for_people: list[Callable[[], View]] = [panel, lines] if is_terminal else [lines]
    if not as_json:
        return [for_people]
    shown = [[panel]] if is_terminal and not stdout.isatty() else []
    return [[lambda: EventLines(stream=stdout)], *shown]
