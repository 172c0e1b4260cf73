import signal
import sys

import pytest

from autopv.search.ray_session import _sigterm_kept


class HeardError(Exception):
    """What the handler of before does."""


def test_a_sigterm_that_ray_hears_while_it_starts_is_answered_by_the_handler_of_before() -> None:
    def hear(_number: int, _frame: object) -> None:
        raise HeardError

    def starts() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as ray.init does
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, hear)
    try:
        with pytest.raises(HeardError), _sigterm_kept():
            starts()
        assert signal.getsignal(signal.SIGTERM) is hear
        with pytest.raises(SystemExit), _sigterm_kept():
            sys.exit(3)
    finally:
        signal.signal(signal.SIGTERM, before)
