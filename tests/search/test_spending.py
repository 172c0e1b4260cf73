"""Admission counts what is spent, what is promised, and what is kept back."""

from pathlib import Path

import pytest

from autopv.search.budget import Budget
from autopv.search.ledger import Ledger
from autopv.search.spending import SAFETY, Reserve, Speed, Spending
from autopv.search.work import WorkItem

SPEED = Speed(s_per_flop=0.1, look_s=1.0, start_s=0.5)


@pytest.fixture
def spending(tmp_path: Path) -> Spending:
    budget = Budget(device_s=100.0)
    return Spending(budget=budget, ledger=Ledger(tmp_path / "ledger.db"), speed=SPEED)


def item(flops: float = 100.0, *, name: str = "blur") -> WorkItem:
    return WorkItem(key="a", label="a", policy={"name": name}, seed=0, rungs=(0.5, 1.0), split="search", flops=flops)


def test_an_item_costs_its_training_its_looks_and_its_start(spending: Spending) -> None:
    assert spending.cost_s(item()) == pytest.approx(100 * 0.1 + 2 * 1.0 + 0.5)


def test_an_item_fits_only_with_a_margin(spending: Spending) -> None:
    assert spending.fits(99.0 / SAFETY)
    assert not spending.fits(101.0 / SAFETY)


def test_a_running_item_is_counted_until_it_ends(spending: Spending) -> None:
    spending.start("a", cost_s=60.0)
    assert not spending.fits(50.0 / SAFETY)
    spending.end("a")
    assert spending.fits(50.0 / SAFETY)


def test_the_reserve_is_kept(spending: Spending) -> None:
    reserve = Reserve(flops=100.0, num_items=4)  # 4 runs of 11.5 s
    assert spending.fits(30.0, reserve=reserve)
    assert not spending.fits(50.0, reserve=reserve)


def test_a_machine_that_turns_out_slower_makes_everything_dearer(spending: Spending) -> None:
    before = spending.cost_s(item())
    spending.learn(item(), training_s=20.0, flops=100.0, evaluation_s=6.0, num_looks=2)
    assert spending.cost_s(item()) == pytest.approx(100 * 0.2 + 2 * 3.0 + 0.5)
    assert spending.cost_s(item()) > before


def test_a_policy_that_is_known_to_be_slow_is_dear_others_cost_the_mean(spending: Spending) -> None:
    spending.learn(item(name="slow"), training_s=30.0, flops=100.0, evaluation_s=1.0, num_looks=1)
    spending.learn(item(name="fast"), training_s=10.0, flops=100.0, evaluation_s=1.0, num_looks=1)
    costs = [spending.cost_s(item(name=name)) for name in ("slow", "fast", "unknown")]
    assert costs == pytest.approx([32.5, 12.5, 22.5])


def test_an_item_that_did_nothing_teaches_nothing(spending: Spending) -> None:
    spending.learn(item(), training_s=0.0, flops=0.0, evaluation_s=0.0, num_looks=0)
    assert spending.speed == SPEED


def test_without_a_time_budget_everything_fits(tmp_path: Path) -> None:
    unlimited = Spending(budget=Budget(trials=3), ledger=Ledger(tmp_path / "ledger.db"), speed=SPEED)
    assert unlimited.fits(1e12)
    assert not unlimited.overdrawn()
