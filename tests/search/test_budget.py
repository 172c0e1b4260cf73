"""Budgets are read exactly, written so that they read back, and refused with the rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopv.errors import BudgetError
from autopv.search.budget import Budget, device_time_text, rounded_up


@pytest.mark.parametrize(
    ("text", "device", "device_s", "trials"),
    [
        ("64gpu-h", "gpu", 230400, None),
        ("90gpu-min", "gpu", 5400, None),
        ("10cpu-min", "cpu", 600, None),
        ("2cpu-h", "cpu", 7200, None),
        ("200trials", "cpu", None, 200),
        ("1trial", "cpu", None, 1),
        ("2cpu-h,40trials", "cpu", 7200, 40),
        ("40trials, 1.5gpu-h", "gpu", 5400, 40),
        ("30 cpu-s", "cpu", 30, None),
    ],
)
def test_the_documented_forms_are_read(text: str, device: str, device_s: float | None, trials: int | None) -> None:
    assert Budget.parse(text) == Budget(device=device, device_s=device_s, trials=trials)


@pytest.mark.parametrize(
    ("budget", "added", "whole"),
    [
        ("64gpu-h", "+16gpu-h", "80gpu-h"),
        ("10cpu-min", "+1cpu-h", "70cpu-min"),
        ("8trials", "+4trials", "12trials"),
        ("2cpu-h,40trials", "+1cpu-h", "3cpu-h,40trials"),
        ("2cpu-h,40trials", "+1cpu-h,+10trials", "3cpu-h,50trials"),
        ("2cpu-h,40trials", "+10trials", "2cpu-h,50trials"),
    ],
)
def test_a_budget_is_extended(budget: str, added: str, whole: str) -> None:
    assert Budget.parse(budget).extended(added) == Budget.parse(whole)


@pytest.mark.parametrize(
    ("budget", "added", "says"),
    [
        ("64gpu-h", "16gpu-h", r"such as \+16gpu-h"),
        ("64gpu-h", "+1cpu-h", "paid in gpu time"),
        ("8trials", "+1cpu-h", "no limit on device time"),
        ("2cpu-h", "+8trials", "no limit on the number of trials"),
        ("2cpu-h", "+", "a number and a unit"),
        ("2cpu-h", "+-1cpu-h", "a number and a unit"),
    ],
)
def test_what_cannot_be_added_is_told(budget: str, added: str, says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        Budget.parse(budget).extended(added)


@given(
    device=st.sampled_from(["cpu", "gpu"]),
    device_s=st.one_of(st.none(), st.floats(min_value=1e-3, max_value=1e9)),
    trials=st.one_of(st.none(), st.integers(min_value=1, max_value=10**9)),
)
def test_what_is_written_reads_back_equal(device: str, device_s: float | None, trials: int | None) -> None:
    if device_s is None and trials is None:
        return
    budget = Budget(device="cpu" if device_s is None else device, device_s=device_s, trials=trials)
    again = Budget.parse(str(budget))
    assert again.device == budget.device
    assert again.trials == budget.trials
    assert (
        again.device_s == pytest.approx(budget.device_s, rel=1e-12) if device_s is not None else again.device_s is None
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("64gpu-hour", "Did you mean 'gpu-h'"),
        ("", "a number and a unit"),
        ("ten minutes", "a number and a unit"),
        ("-5cpu-h", "a number and a unit"),
        ("0cpu-h", "positive"),
        ("0trials", "at least 1"),
        ("2.5trials", "whole"),
        ("1cpu-h,1gpu-h", "given twice"),
        ("5trials,6trials", "given twice"),
    ],
)
def test_a_bad_budget_is_refused_with_the_rule(text: str, says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        Budget.parse(text)


def test_times_are_told_in_the_unit_that_comes_out_even() -> None:
    assert device_time_text(7200, device="cpu") == "2cpu-h"
    assert device_time_text(5400, device="gpu") == "1.5gpu-h"
    assert device_time_text(600, device="cpu") == "10cpu-min"
    assert device_time_text(59, device="cpu") == "59cpu-s"
    assert rounded_up(601, device="cpu") == "11cpu-min"
    assert rounded_up(7 * 3600 + 1, device="gpu") == "8gpu-h"
