"""Policies are ranked by what is to be expected of them, and the promising ones are run again."""

from collections.abc import Sequence
from dataclasses import replace

from autopv.policy import Policy
from autopv.search.conclusion import best_found, choose_arms
from autopv.search.ranking import expected_results, most_promising, worth_repeating
from autopv.search.records import TrialRecord
from autopv.spaces import Space
from autopv.verify.controls import IMAGE_ONLY

SPACE = Space.load("stage2_expressive")
FLOOR = 200.0


def record(
    number: int, distance: float | None, *, policy: Policy | None = None, control: str | None = None, seed: int = 1,
    state: str = "complete",
) -> TrialRecord:  # fmt: skip
    key = f"search-{number:04d}"
    return TrialRecord(
        key=key, label=control or key, control=control, repeats=None, policy=policy or SPACE.random_policy(number),
        state=state, seed=seed, distance=distance, looks={} if distance is None else {0.5: 2 * distance, 1.0: distance},
        failure=None,
    )  # fmt: skip


def searched(distances: Sequence[float]) -> list[TrialRecord]:
    image_only = record(99, 900.0, policy=Policy.image_only(), control=IMAGE_ONLY)
    return [image_only, *(record(i, distance) for i, distance in enumerate(distances))]


def test_a_policy_that_was_good_thrice_is_before_one_that_was_best_once() -> None:
    records = searched([700.0, 690.0, 900.0, 950.0, 880.0, 1000.0, 920.0, 890.0])
    repeats = [record(20 + i, d, policy=records[1].policy, seed=2 + i) for i, d in enumerate((740.0, 670.0, 700.0))]
    others = [record(30 + i, d, policy=records[3 + i].policy, seed=2) for i, d in enumerate((990.0, 860.0, 980.0))]
    results = expected_results([*records, *repeats, *others], floor=FLOOR)
    assert results[0].record.key == records[1].key
    assert results[0].num_runs == 4
    assert results[1].record.key == records[2].key
    assert results[0].change is not None
    assert results[0].change[0] < 0 < results[0].sd


def test_stopped_failed_and_running_trials_are_not_ranked() -> None:
    records = searched([700.0, 800.0])
    records += [record(10, None, state=state) for state in ("stopped", "failed", "running", "unpaid")]
    assert len(expected_results(records, floor=FLOOR)) == 3
    assert expected_results(records[3:], floor=FLOOR) == []
    assert worth_repeating(records[3:], floor=FLOOR) is None


def test_the_best_is_repeated_until_another_one_may_be_better() -> None:
    records = searched([700.0, 702.0, 900.0, 950.0, 880.0, 1000.0, 920.0, 890.0])
    first = worth_repeating(records, floor=FLOOR)
    assert first is not None
    assert first.key in (records[1].key, records[2].key)
    other = next(r for r in records[1:3] if r.key != first.key)
    # It disappoints: the next hope is the other one.
    records += [record(20 + i, 900.0, policy=first.policy, seed=2 + i) for i in range(2)]
    second = worth_repeating(records, floor=FLOOR)
    assert second is not None
    assert second.key == other.key


def test_neither_a_control_nor_what_runs_already_is_repeated() -> None:
    records = searched([700.0, 800.0])
    records.append(record(10, 600.0, control="blur"))
    running = record(11, None, policy=records[1].policy, state="running", seed=2)
    chosen = worth_repeating([*records, running], floor=FLOOR)
    assert chosen is not None
    assert chosen.key == records[2].key


def test_arms_are_the_controls_and_the_two_of_which_most_is_expected() -> None:
    records = searched([640.0, 1000.0, 720.0, 1100.0, 1050.0])
    records.append(record(20, 650.0, control="blur"))
    arms = choose_arms(records, floor=FLOOR)
    assert [arm.name for arm in arms if arm.kind == "control"] == [IMAGE_ONLY, "blur"]
    assert {arm.name for arm in arms if arm.kind == "searched"} == {records[1].label, records[3].label}
    best = best_found(records, floor=FLOOR)
    assert best is not None
    assert best.record.key == records[1].key, "a control is not what was searched"


def test_for_a_longer_training_less_is_sure() -> None:
    records = searched([700.0, 1000.0, 720.0, 1100.0, 1050.0])
    near, far = (expected_results(records, floor=FLOOR, length=length) for length in (1.0, 8.0))
    assert {r.record.key for r in near} == {r.record.key for r in far}
    assert all(one.log_excess < min(r.log_excess for r in near) for one in far), "it goes on as the looks so far"
    assert max(r.sd for r in near) < min(r.sd for r in far)


def test_of_hundreds_of_policies_some_stand_for_all_and_all_are_ranked() -> None:
    records = searched([700.0 + i for i in range(300)])
    results = expected_results(records, floor=FLOOR)
    assert len(results) == 301
    assert int(results[0].record.key.split("-")[1]) < 100


def test_a_candidate_like_the_good_ones_is_proposed_and_another_one_each_time() -> None:
    def one(op: str, value: float) -> Policy:
        return Policy.parse(f"T=4 order=1 fresh weight=0.1: {op}={value} linear 1-3")

    noise = [one("gaussian_noise sigma", 0.1 + 0.02 * i) for i in range(16)]
    erase = [one("erase area", 0.1 + 0.02 * i) for i in range(16)]
    records = [record(i, 600.0 + 40 * (5 * i % 8), policy=policy) for i, policy in enumerate(noise[:8])]
    records += [record(20 + i, 1200.0 + 40 * (5 * i % 8), policy=policy) for i, policy in enumerate(erase[:8])]
    candidates = [*noise[8:], *erase[8:]]
    chosen = [most_promising(records, candidates, floor=FLOOR, seed=seed)[0] for seed in range(20)]
    assert all(policy in noise for policy in chosen)
    others = [SPACE.random_policy(seed) for seed in range(40)]
    drawn = [most_promising(records, others, floor=FLOOR, seed=seed)[0] for seed in range(10)]
    assert len({policy.digest for policy in drawn}) > 1, "workers get different ones"
    assert chosen[0] == most_promising(records, candidates, floor=FLOOR, seed=0)[0]
    assert most_promising([], candidates, floor=FLOOR, seed=0) == []


def test_trials_that_were_stopped_speak_for_policies_like_theirs() -> None:
    """Halving stops the worse half: a search that forgot them would propose more of their kind."""

    def one(op: str, value: float) -> Policy:
        return Policy.parse(f"T=4 order=1 fresh weight=0.1: {op}={value} linear 1-3")

    records = [record(i, 600.0 + 5 * i) for i in range(8)]
    candidates = [one("gaussian_noise sigma", 0.33), one("erase area", 0.33)]

    def stopped(policy: Policy, number: int, *, distance: float) -> TrialRecord:
        return replace(record(number, None, policy=policy, state="stopped"), looks={0.5: distance})

    for harmful, harmless in ((0, 1), (1, 0)):
        ops = ("gaussian_noise sigma", "erase area")
        bad = [stopped(one(ops[harmful], 0.1 + 0.05 * i), 20 + i, distance=2600.0 + i) for i in range(8)]
        good = [stopped(one(ops[harmless], 0.1 + 0.05 * i), 40 + i, distance=1240.0 + i) for i in range(8)]
        seen = [*records, *bad, *good]
        chosen = [most_promising(seen, candidates, floor=FLOOR, seed=seed)[0] for seed in range(10)]
        assert chosen == [candidates[harmless]] * 10
