"""Repetitions, given policies and ways of stopping: what a study proposes beside new policies, and what it lets end."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from autopv.policy import Policy
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import default_controls

SPACE = Space.load("stage2_expressive")
CONTROLS = default_controls()
OUTSIDE = Policy.parse("T=3 order=1 fresh weight=5: erase area=0.3 linear 1-2")

Open = Callable[..., SearchStudy]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the study as a new process would."""

    def open_study(**options: Any) -> SearchStudy:
        rungs = options.pop("rungs", (0.5, 1.0))
        return SearchStudy(
            tmp_path / "study.db", space=SPACE, controls=CONTROLS, seed=0, rungs=rungs, floor=1.0, **options
        )

    return open_study


def quality(policy: Mapping[str, Any]) -> float:
    """A made-up distance of each policy, which every run of it measures."""
    return 10.0 + int(Policy.from_dict(policy).digest[:4], 16) / 2**16


def run_one(study: SearchStudy) -> tuple[WorkItem, str]:
    """Proposes a trial and takes it as far as the study lets it go; returns how it ended."""
    item = study.propose(flops=1e9)
    for fraction in item.rungs:
        look = Look(fraction=fraction, distance=quality(item.policy) / fraction, steps=10, flops=1e9)
        goes_on = study.judge(item, look)
        if not goes_on:
            break
    status = "complete" if look.fraction == 1.0 else "stopped"
    study.finish(item, Outcome(status=status, look=look))  # type: ignore[arg-type]
    return item, status


def run_many(study: SearchStudy, count: int) -> list[tuple[WorkItem, str]]:
    return [run_one(study) for _ in range(count)]


def test_a_quarter_of_the_proposals_repeats_the_most_promising_policies_on_new_seeds(opened: Open) -> None:
    study = opened(repeat_share=0.25)
    run_many(study, len(CONTROLS) + 40)
    records = [record for record in study.records() if record.control is None]
    repeats = [record for record in records if record.repeats is not None]
    assert 0.15 * len(records) < len(repeats) <= 0.25 * len(records)
    by_key = {record.key: record for record in records}
    for repeat in repeats:
        first = by_key[repeat.repeats]
        assert repeat.policy == first.policy
        same = [record.seed for record in records if record.policy == repeat.policy]
        assert len(set(same)) == len(same), "each run has a seed of its own"
        assert repeat.state == "complete", "it is not stopped half way"
    best = min((r for r in records if r.distance is not None), key=lambda r: r.distance or 0.0)
    assert best.policy in [repeat.policy for repeat in repeats]


def test_without_a_share_nothing_is_repeated(opened: Open) -> None:
    study = opened(repeat_share=0.0)
    run_many(study, len(CONTROLS) + 20)
    assert all(record.repeats is None for record in study.records())


def test_a_repetition_that_was_queued_outlives_the_driver(opened: Open) -> None:
    study = opened(repeat_share=0.25)
    while not any(record.repeats for record in study.records()):
        study.propose(flops=1e9) if study._repeat_due() else run_one(study)  # killed with the repetition under way
    again = opened(repeat_share=0.25)
    (key,) = again.interrupted()
    (repeat,) = (record for record in again.records() if record.key == key)
    item = again.propose(flops=1e9, resume=key)
    assert (item.policy, item.seed) == (repeat.policy.to_dict(), repeat.seed)


def test_given_policies_are_tried_after_the_controls_and_may_be_stopped(opened: Open) -> None:
    given = {"given-1": SPACE.random_policy(7), "given-2": OUTSIDE}
    study = opened(given=given)
    items = run_many(study, len(CONTROLS) + 2)
    labels = [item.label for item, _ in items]
    assert set(labels) == {control.name for control in CONTROLS} | set(given)
    by_label = {record.label: record for record in study.records()}
    assert by_label["given-1"].policy == given["given-1"]
    assert by_label["given-2"].policy == OUTSIDE
    assert by_label["given-1"].control is None
    again = opened(given=given)
    assert run_one(again)[0].label.startswith("search-"), "they are not queued twice"


def test_without_stopping_every_trial_runs_to_its_end(opened: Open) -> None:
    study = opened(stopping="none", rungs=(1.0,))
    assert {status for _, status in run_many(study, 20)} == {"complete"}


def test_a_look_before_half_stops_nobody(opened: Open) -> None:
    study = opened(rungs=(0.25, 0.5, 1.0))
    for _ in range(20):
        item = study.propose(flops=1e9)
        look = Look(fraction=0.25, distance=100.0 - study.num_trials, steps=10, flops=1e9)
        assert study.judge(item, look)


def test_top_k_stops_all_but_controls_and_lets_the_best_go_on(opened: Open) -> None:
    study = opened(stopping="top-k")
    ended = run_many(study, len(CONTROLS) + 12)
    assert [status for _, status in ended[len(CONTROLS) :]] == ["stopped"] * 12
    assert all(item.may_go_on for item, _ in ended)
    best = sorted((item for item, _ in ended[len(CONTROLS) :]), key=lambda item: quality(item.policy))
    for expected in best[:3]:
        assert study.promote()
        item, status = run_one(study)
        assert (item.policy, item.seed, item.continues) == (expected.policy, expected.seed, expected.key)
        assert status == "complete"
    assert study.num_promoted == 3
    assert study.num_trials == len(CONTROLS) + 12, "a trial that goes on is no new one"
    assert opened(stopping="top-k").num_promoted == 3


def test_when_none_is_left_none_goes_on(opened: Open) -> None:
    study = opened(stopping="top-k")
    run_many(study, len(CONTROLS) + 1)
    assert study.has_stopped
    assert study.promote()
    run_one(study)
    assert not study.has_stopped
    assert not study.promote()
