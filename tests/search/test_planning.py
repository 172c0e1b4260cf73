"""The plan divides a budget as documented, for machines of any speed."""

import re

import pytest

from autopv.errors import BudgetError
from autopv.search.budget import Budget
from autopv.search.planning import SHORTEST_TRIAL_STEPS, SearchPlan, affordable_runs, plan_search
from autopv.search.spending import Speed
from autopv.verify.statistics import MIN_BLOCKS


def plan(
    budget: str,
    *,
    step_s: float = 0.05,
    trial_steps: int | None = None,
    train_steps: int | None = None,
    num_seeds: int = 3,
) -> SearchPlan:
    return plan_search(
        Budget.parse(budget),
        speed=Speed(s_per_flop=step_s / 1e9, look_s=1.5, start_s=0.5),
        flops_per_step=1e9,
        num_rungs=2,
        num_controls=6,
        num_arms=8,
        num_seeds=num_seeds,
        num_workers=2,
        trial_steps=trial_steps,
        train_steps=train_steps,
        mean_share=0.75,
    )


def test_an_extension_keeps_budget_for_whole_blocks_up_to_half_of_what_is_left() -> None:
    assert affordable_runs([10, 10, 10], item_s=1.0, left_s=60.0) == 30
    assert affordable_runs([10, 10, 10], item_s=1.0, left_s=59.0) == 20
    assert affordable_runs([2, 2, 2, 10], item_s=1.0, left_s=31.0) == 6


def test_the_quick_start_buys_trials_but_no_verdict() -> None:
    quick = plan("10cpu-min")
    assert quick.trial_steps == SHORTEST_TRIAL_STEPS
    assert quick.num_trials >= 6
    assert quick.num_blocks < MIN_BLOCKS


def test_hours_buy_longer_trials_and_a_verdict() -> None:
    assert plan("2cpu-h").trial_steps > SHORTEST_TRIAL_STEPS
    assert plan("2cpu-h").num_blocks == 3
    assert plan("20cpu-h").trial_steps > plan("2cpu-h").trial_steps


def test_a_faster_machine_trains_longer_for_the_same_budget() -> None:
    assert plan("2cpu-h", step_s=0.01).trial_steps > plan("2cpu-h", step_s=0.05).trial_steps


def test_what_the_plan_says_a_verdict_needs_does_buy_one() -> None:
    needs_s = plan("10cpu-min").verdict_needs_s
    assert plan(f"{needs_s * 1.2:.0f}cpu-s").num_blocks >= MIN_BLOCKS


def test_the_reserve_and_the_trials_fit_the_budget() -> None:
    for budget in ("10cpu-min", "45cpu-min", "2cpu-h", "1cpu-h"):
        result = plan(budget)
        limit_s = Budget.parse(budget).device_s
        assert limit_s is not None
        assert result.reserve_s is not None
        assert 0.5 * result.num_trials * result.trial_s + result.reserve_s <= limit_s


def test_a_fixed_length_is_kept() -> None:
    assert plan("2cpu-h", trial_steps=1234).trial_steps == 1234
    assert plan("20trials", trial_steps=77).trial_steps == 77


def test_a_budget_of_trials_alone_needs_no_reserve() -> None:
    result = plan("20trials")
    assert (result.num_trials, result.num_blocks, result.reserve_s) == (20, 3, None)


def test_both_limits_hold() -> None:
    assert plan("2cpu-h,9trials").num_trials == 9


def test_too_small_a_budget_is_refused_with_the_smallest_sensible_one() -> None:
    with pytest.raises(BudgetError, match=r"smallest sensible budget.* is \d+cpu-min") as error:
        plan("1cpu-min")
    smallest = re.findall(r"\d+cpu-min", str(error.value))[1]
    assert plan(smallest).num_trials >= 6


def test_no_trial_is_longer_than_the_training_it_is_for_and_a_large_budget_makes_it_as_long() -> None:
    assert plan("20cpu-h", train_steps=1000).trial_steps == 1000
    assert plan("20cpu-h", train_steps=100_000).trial_steps == plan("20cpu-h").trial_steps
    assert plan("10cpu-min", train_steps=100).trial_steps == 100
    assert plan("20trials", train_steps=5000).trial_steps == 5000
    assert plan("20cpu-h", train_steps=1000, trial_steps=700).trial_steps == 700


def test_what_the_plan_says_trials_as_long_as_the_training_need_does_buy_them() -> None:
    needs_s = plan("1cpu-h", train_steps=5000).train_needs_s
    assert needs_s is not None
    bought = plan(f"{needs_s * 1.2:.0f}cpu-s", train_steps=5000)
    assert (bought.trial_steps, bought.num_blocks) == (5000, 3)
    assert plan("1cpu-h").train_needs_s is None
