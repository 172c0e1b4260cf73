"""The ledger charges from grant to release and forgets nothing in a crash."""

import sqlite3
import time
from pathlib import Path

import pytest

from autopv.errors import RunFolderError
from autopv.search.ledger import ORPHAN_GRACE_S, Ledger, VerificationResult


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_devices_are_charged_from_grant_to_release(path: Path) -> None:
    ledger = Ledger(path)
    before_s = time.time()
    ledger.grant("a", phase="search")
    ledger.grant("b", phase="verify")
    time.sleep(0.2)
    ledger.release("a")
    released_s = time.time()
    time.sleep(0.1)
    ledger.release("b")
    assert 0.2 <= ledger.spent_s(key="a") <= released_s - before_s
    assert 0.3 <= ledger.spent_s(phase="verify") <= time.time() - before_s
    assert ledger.spent_s() == pytest.approx(ledger.spent_s(key="a") + ledger.spent_s(key="b"))


def test_a_device_that_is_held_is_charged_up_to_now(path: Path) -> None:
    ledger = Ledger(path)
    ledger.grant("a", phase="search")
    time.sleep(0.1)
    assert ledger.spent_s() >= 0.1


def test_granting_again_ends_the_earlier_segment(path: Path) -> None:
    ledger = Ledger(path)
    ledger.grant("a", phase="search")
    ledger.grant("a", phase="search")
    time.sleep(0.1)
    ledger.release("a")
    assert ledger.spent_s() < 0.2


def test_after_a_crash_open_segments_end_at_their_last_beat_and_a_grace(path: Path) -> None:
    crashed = Ledger(path)
    crashed.grant("a", phase="search")
    time.sleep(0.1)
    crashed.beat()
    del crashed  # neither released nor closed, as after kill -9
    time.sleep(0.3)
    ledger = Ledger(path)
    assert 0.1 + ORPHAN_GRACE_S <= ledger.spent_s() < 0.25 + ORPHAN_GRACE_S
    before = ledger.spent_s()
    time.sleep(0.1)
    assert ledger.spent_s() == before


def test_a_share_of_a_device_is_charged_as_a_share(path: Path) -> None:
    now = [0.0]
    ledger = Ledger(path, clock=lambda: now[0])
    for key in ("a", "b", "c", "d"):
        ledger.grant(key, phase="search", share=0.25)
    now[0] = 8.0
    assert ledger.spent_s() == 8.0
    ledger.release("a")
    assert ledger.spent_s(key="a") == 2.0


def test_work_done_again_is_rework_also_after_a_crash(path: Path) -> None:
    crashed = Ledger(path)
    crashed.grant("a", phase="search")
    assert crashed.reach("a", start_flops=0.0, end_flops=100.0) == 0.0
    crashed.beat()
    del crashed
    ledger = Ledger(path)
    assert ledger.reach("a", start_flops=60.0, end_flops=80.0) == 1.0
    assert ledger.reach("a", start_flops=80.0, end_flops=120.0) == 0.5
    assert ledger.reach("a", start_flops=120.0, end_flops=140.0) == 0.0
    assert ledger.reach("a", start_flops=140.0, end_flops=140.0) == 0.0
    assert ledger.reach("b", start_flops=0.0, end_flops=50.0) == 0.0


def test_several_states_are_kept_together_or_not_at_all(path: Path) -> None:
    ledger = Ledger(path)
    ledger.set_state("phase", "done")
    with pytest.raises(TypeError):
        ledger.set_states({"phase": "search", "budget": object()})
    assert ledger.get_state("phase") == "done"
    ledger.set_states({"phase": "search", "budget": "2cpu-h"})
    assert (ledger.get_state("phase"), ledger.get_state("budget")) == ("search", "2cpu-h")


def test_usage_divides_what_was_spent(path: Path) -> None:
    ledger = Ledger(path)
    ledger.grant("a", phase="search")
    time.sleep(0.2)
    ledger.release("a")
    ledger.record_usage("a", training_s=0.1, evaluation_s=0.02)
    ledger.record_usage("a", training_s=0.03, evaluation_s=0.0)
    usage = ledger.usage()
    assert usage["training"] == pytest.approx(0.13)
    assert usage["evaluation"] == pytest.approx(0.02)
    assert sum(usage.values()) == pytest.approx(ledger.spent_s())


def test_usage_is_told_by_phase_before_and_after_it_is_written_down(path: Path) -> None:
    now = [0.0]
    ledger = Ledger(path, clock=lambda: now[0])
    ledger.grant("a", phase="search")
    ledger.grant("b", phase="verify")
    now[0] = 10.0
    ledger.record_usage("a", training_s=4.0, rendering_s=1.0, startup_s=2.0)
    ledger.record_usage("b", evaluation_s=3.0, rework_s=5.0)
    before = [ledger.usage(phase=phase) for phase in ("search", "verify")]
    assert before[0] == {
        "training": 4.0,
        "evaluation": 0.0,
        "rendering": 1.0,
        "startup": 2.0,
        "rework": 0.0,
        "other": 3.0,
    }
    assert (before[1]["evaluation"], before[1]["rework"], before[1]["other"]) == (3.0, 5.0, 2.0)
    ledger.beat()
    assert [Ledger(path, read_only=True).usage(phase=phase) for phase in ("search", "verify")] == before


def test_the_first_verification_result_of_an_arm_and_seed_stands(path: Path) -> None:
    ledger = Ledger(path)
    first = VerificationResult(arm="blur", seed=1, distance=5.0, failure=None, checkpoint="x")
    ledger.record_verification(first)
    ledger.record_verification(VerificationResult(arm="blur", seed=1, distance=4.0, failure=None, checkpoint="y"))
    assert Ledger(path, read_only=True).verification() == (first,)


def test_state_survives(path: Path) -> None:
    Ledger(path).set_state("arms", [{"name": "blur"}])
    ledger = Ledger(path)
    assert ledger.get_state("arms") == [{"name": "blur"}]
    assert ledger.get_state("phase") is None


def test_reading_changes_nothing_and_needs_a_file(path: Path) -> None:
    with pytest.raises(RunFolderError, match="missing"):
        Ledger(path, read_only=True)
    Ledger(path)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        Ledger(path, read_only=True).set_state("phase", "done")


def test_a_damaged_file_is_named(path: Path) -> None:
    path.write_bytes(b"not a database, and long enough to be read as one" * 50)
    with pytest.raises(RunFolderError, match=r"ledger\.db"):
        Ledger(path)
