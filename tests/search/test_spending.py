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


def item(flops: float = 100.0, *, name: str = "blur", key: str = "a") -> WorkItem:
    return WorkItem(key=key, label="a", policy={"name": name}, seed=0, rungs=(0.5, 1.0), split="search", flops=flops)


def test_an_item_costs_its_training_its_looks_and_its_start(spending: Spending) -> None:
    assert spending.cost_s(item()) == pytest.approx(100 * 0.1 + 2 * 1.0 + 0.5)


def test_an_item_fits_only_with_a_margin(spending: Spending) -> None:
    assert spending.fits(99.0 / SAFETY)
    assert not spending.fits(101.0 / SAFETY)


def test_a_running_item_is_counted_until_it_ends(spending: Spending) -> None:
    spending.start(item(flops=600.0))
    assert not spending.fits(50.0 / SAFETY)
    spending.end("a")
    assert spending.fits(50.0 / SAFETY)


def test_what_is_promised_to_a_running_item_shrinks_as_it_gets_on_and_grows_if_it_is_slow(spending: Spending) -> None:
    spending.start(item(flops=600.0))
    promised = [100.0 - spending.left_s()]
    spending.follow("a", flops=300.0, num_looks=1, device_s=30.0, flops_done=300.0)
    promised.append(100.0 - spending.left_s())
    spending.follow("a", flops=300.0, num_looks=1, device_s=60.0, flops_done=0.0)
    promised.append(100.0 - spending.left_s())
    assert promised == pytest.approx([62.0, 31.0, 91.0], abs=0.1)


def test_the_rest_of_an_item_must_fit_beside_the_reserve_and_the_others(spending: Spending) -> None:
    spending.start(item(flops=600.0))
    spending.follow("a", flops=300.0, num_looks=1, device_s=30.0, flops_done=300.0)
    assert spending.fits_rest("a")
    assert spending.fits_rest("a", reserve=Reserve(flops=50.0, num_items=10))
    assert not spending.fits_rest("a", reserve=Reserve(flops=60.0, num_items=10))
    spending.start(item(flops=680.0, key="b"))
    assert not spending.fits_rest("a")
    assert spending.fits_rest("unknown")


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
