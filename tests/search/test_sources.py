"""Verification hands out whole blocks, as many as the budget holds, and repeats nothing that has ended."""

from pathlib import Path

import pytest

from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.sources import VerificationSource
from autopv.search.spending import SAFETY, Speed, Spending
from autopv.search.work import Look, Outcome, WorkItem
from autopv.verify.blocks import Arm

ITEM_S = 10.0
ARMS = [Arm(name=name, kind="control", policy=Policy.image_only()) for name in ("image-only", "blur", "noise")]
LOOK = Look(fraction=1.0, distance=5.0, steps=1, flops=1.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def source(ledger: Ledger, *, device_s: float, num_seeds: int = 20) -> VerificationSource:
    speed = Speed(s_per_flop=ITEM_S, look_s=0.0, start_s=0.0)
    spending = Spending(budget=Budget(device_s=device_s), ledger=ledger, speed=speed)
    made = VerificationSource(ARMS, seeds=range(num_seeds), flops=1.0, ledger=ledger, spending=spending)
    made.begin()
    return made


def drain(verification: VerificationSource) -> list[tuple[str, int]]:
    """Runs every item that is handed out, one after the other; nothing is charged."""
    ran = []
    while (item := verification.next_item()) is not None:
        ran.append((item.label, item.seed))
        verification.finish(item, Outcome(status="complete", look=LOOK))
        if len(ran) >= 12:
            break
    return ran


def test_blocks_go_on_while_the_budget_holds_a_whole_one(ledger: Ledger) -> None:
    ran = drain(source(ledger, device_s=1000.0))
    assert ran == [(arm.name, seed) for seed in range(4) for arm in ARMS]


def test_a_block_that_does_not_fit_is_not_begun(ledger: Ledger) -> None:
    verification = source(ledger, device_s=len(ARMS) * ITEM_S * SAFETY - 1)
    assert verification.exhausted()
    assert verification.next_item() is None


def test_the_rest_of_a_block_that_was_begun_needs_no_margin(ledger: Ledger) -> None:
    ledger.record_verification(
        VerificationResult(arm="image-only", seed=0, distance=1.0, failure=None, checkpoint=None)
    )
    assert drain(source(ledger, device_s=2 * ITEM_S, num_seeds=1)) == [("blur", 0), ("noise", 0)]
    assert source(ledger, device_s=2 * ITEM_S - 1, num_seeds=1).exhausted()


def test_the_seeds_asked_for_are_the_most(ledger: Ledger) -> None:
    assert len(drain(source(ledger, device_s=1e9, num_seeds=2))) == 2 * len(ARMS)


def test_what_has_ended_is_not_run_again(ledger: Ledger) -> None:
    ledger.record_verification(
        VerificationResult(arm="image-only", seed=0, distance=1.0, failure=None, checkpoint=None)
    )
    assert drain(source(ledger, device_s=1e9, num_seeds=1)) == [("blur", 0), ("noise", 0)]


def test_a_run_cut_off_by_the_budget_is_not_recorded_and_ends_the_verification(ledger: Ledger) -> None:
    verification = source(ledger, device_s=1e9)
    item = verification.next_item()
    assert isinstance(item, WorkItem)
    verification.finish(item, Outcome(status="unpaid", failure="the budget was spent"))
    assert ledger.verification() == ()
    assert verification.exhausted()


def test_a_failed_run_is_recorded_with_its_reason(ledger: Ledger) -> None:
    verification = source(ledger, device_s=1e9)
    item = verification.next_item()
    assert isinstance(item, WorkItem)
    verification.finish(item, Outcome(status="failed", failure="the loss is not finite"))
    (result,) = ledger.verification()
    assert (result.distance, result.failure) == (None, "the loss is not finite")
