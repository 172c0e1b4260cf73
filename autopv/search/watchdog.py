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


def silence_limit_s(speed: Speed) -> float:
    """Seconds without a report after which a worker counts as hung."""
    return max(LEAST_SILENCE_S, _TIMES_EXPECTED * (speed.start_s + speed.look_s))


@contextmanager
def watched(limit_s: float, *, trace: Path) -> Iterator[None]:
    """A block that may take `limit_s`; then this process is ended, with the stacks of its threads left in `trace`.

    The watchdog is a thread of the interpreter's own in C, so it also ends what never comes back from a driver or a
    kernel.
    """
    trace.parent.mkdir(parents=True, exist_ok=True)
    with trace.open("w", encoding="utf-8") as file:
        faulthandler.dump_traceback_later(limit_s, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    trace.unlink(missing_ok=True)


def has_hung(trace: Path) -> bool:
    """Whether a watchdog ended the last process that worked under this trace."""
    return trace.exists() and trace.stat().st_size > 0
