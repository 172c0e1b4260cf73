"""Ctrl-C and SIGTERM put off until what must not be cut in two is done."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], Any]


class DeferredInterrupts:
    """A context in which a first SIGINT or SIGTERM is only noted (`asked`); it takes effect when the context ends.

    A second one takes effect at once. Signals that are ignored, or that would kill the process outright, stay as they
    are, and so does everything outside of the main thread, which alone hears signals.
    """

    def __init__(self) -> None:
        self._noted: int | None = None
        self._before: dict[int, _Handler] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self._noted is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._noted is not None and error is None:
            self._before[self._noted](self._noted, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None:
            self._before[number](number, frame)
        self._noted = number
