import signal
import threading

import pytest

from autopv.training.interrupts import DeferredInterrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_end_and_then_acts_as_ever(number):
    heard = []
    before = signal.signal(number, lambda got, _: heard.append(got))
    try:
        with DeferredInterrupts() as interrupts:
            assert not interrupts.asked
            signal.raise_signal(number)
            assert interrupts.asked
            assert heard == []
        assert heard == [number]
        signal.raise_signal(number)
        assert heard == [number] * 2
    finally:
        signal.signal(number, before)


def test_a_second_one_acts_at_once(heard_interrupts):
    reached = []

    def twice():
        with DeferredInterrupts():
            for number in (1, 2):
                signal.raise_signal(signal.SIGINT)
                reached.append(number)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert reached == [1]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_error_within_is_not_hidden_by_the_interrupt(heard_interrupts):
    def fail():
        with DeferredInterrupts():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with DeferredInterrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert not interrupts.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_let_be():
    def enter():
        with DeferredInterrupts() as interrupts:
            asked.append(interrupts.asked)

    asked = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert asked == [False]
