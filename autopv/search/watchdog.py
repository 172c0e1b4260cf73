"""What hangs is ended: how long a worker may be silent, and the watchdog that ends its process when it takes longer."""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopv.search.spending import Speed

# No worker is called hung before this long, however fast it was expected to be.
LEAST_SILENCE_S = 300.0
# Nor before this multiple of what a start and a measurement, the longest things between two reports, usually take.
_TIMES_EXPECTED = 20
# The watchdog in the worker is given this long to be first: unlike the driver, it can tell where the worker hung.
DRIVER_GRACE_S = 20.0
TRACE_FILE = "hung.txt"
# Open while a watchdog is on; it has content only if that one ended its process.
_OPEN_FILE = ".watchdog"


def silence_limit_s(speed: Speed) -> float:
    """Seconds without a report after which a worker counts as hung."""
    return max(LEAST_SILENCE_S, _TIMES_EXPECTED * (speed.start_s + speed.look_s))


@contextmanager
def watched(limit_s: float, *, folder: Path) -> Iterator[None]:
    """A block that may take `limit_s`; then this process is ended, with the stacks of its threads left in `folder`.

    The watchdog is a thread of the interpreter's own in C, so it also ends what never comes back from a driver or a
    kernel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _OPEN_FILE
    with path.open("w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink(missing_ok=True)


def take_trace(folder: Path) -> Path | None:
    """The file that says where the last process that worked in this folder hung; None if no watchdog ended it."""
    path = folder / _OPEN_FILE
    if not path.exists() or path.stat().st_size == 0:
        return None
    return path.replace(folder / TRACE_FILE)
