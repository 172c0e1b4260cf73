"""The study proposes, stops and remembers; a new process goes on where another one was killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autopv.policy import Policy
from autopv.search.study import SearchStudy, trial_seed
from autopv.search.study_file import read_records
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import IMAGE_ONLY, default_controls, random_controls

SPACE = Space.load("stage2_expressive")
CONTROLS = (*default_controls(), *random_controls(SPACE.random_policy, seed=0))

OpenStudy = Callable[[], SearchStudy]


@pytest.fixture
def open_study(tmp_path: Path) -> OpenStudy:
    """Opens the study as a new process would."""
    return lambda: SearchStudy(tmp_path / "study.db", space=SPACE, controls=CONTROLS, seed=0, rungs=(0.5, 1.0))


def look(fraction: float, distance: float) -> Look:
    return Look(fraction=fraction, distance=distance, steps=10, flops=1e9)


def run_one(study: SearchStudy, *, distances: tuple[float, float], resume: str | None = None) -> WorkItem:
    """Proposes a trial and takes it as far as the study lets it go."""
    item = study.propose(flops=1e9, resume=resume)
    first = look(0.5, distances[0])
    if study.judge(item, first):
        last = look(1.0, distances[1])
        study.judge(item, last)
        study.finish(item, Outcome(status="complete", look=last))
    else:
        study.finish(item, Outcome(status="stopped", look=first))
    return item


def test_controls_come_first_image_only_before_all(open_study: OpenStudy) -> None:
    study = open_study()
    labels = [run_one(study, distances=(9, 8)).label for _ in CONTROLS]
    assert labels[0] == IMAGE_ONLY
    assert set(labels) == {control.name for control in CONTROLS}
    assert run_one(study, distances=(9, 8)).label.startswith("search-")


def test_a_control_is_never_stopped(open_study: OpenStudy) -> None:
    study = open_study()
    for i in range(len(CONTROLS)):
        run_one(study, distances=(100.0 + i, 50.0))  # each one worse than the one before
    assert {record.state for record in study.records()} == {"complete"}


def test_a_policy_that_is_worse_at_its_rung_is_stopped_and_keeps_its_look(open_study: OpenStudy) -> None:
    study = open_study()
    for _ in CONTROLS:
        run_one(study, distances=(10.0, 8.0))
    item = run_one(study, distances=(99.0, 1.0))
    record = next(r for r in study.records() if r.key == item.key)
    assert (record.state, record.distance, dict(record.looks)) == ("stopped", None, {0.5: 99.0})


def test_equal_seeds_propose_equal_policies_also_across_a_restart(tmp_path: Path, open_study: OpenStudy) -> None:
    def policies(reopen_every: int, path: Path) -> list[object]:
        found, study = [], None
        for i in range(16):
            if study is None or i % reopen_every == 0:
                study = SearchStudy(path, space=SPACE, controls=CONTROLS, seed=3, rungs=(0.5, 1.0))
            found.append(run_one(study, distances=(float(10 + i % 5), float(8 + i % 3))).policy)
        return found

    assert policies(100, tmp_path / "a.db") == policies(5, tmp_path / "b.db")


def test_an_interrupted_trial_is_handed_out_again_as_it_was(open_study: OpenStudy) -> None:
    killed = open_study()
    run_one(killed, distances=(10, 8))
    item = killed.propose(flops=1e9)
    killed.judge(item, look(0.5, 10.0))
    study = open_study()
    assert study.interrupted() == (item.key,)
    again = run_one(study, distances=(77.0, 7.0), resume=item.key)
    assert again == item
    assert study.interrupted() == ()
    record = next(r for r in study.records() if r.key == item.key)
    assert dict(record.looks) == {0.5: 10.0, 1.0: 7.0}, "the look that was recorded first stands"


def test_what_was_decided_at_a_rung_stands_after_a_restart(open_study: OpenStudy) -> None:
    killed = open_study()
    for _ in CONTROLS:
        run_one(killed, distances=(10.0, 8.0))
    item = killed.propose(flops=1e9)
    assert not killed.judge(item, look(0.5, 99.0))
    study = open_study()
    again = study.propose(flops=1e9, resume=item.key)
    assert not study.judge(again, look(0.5, 99.0))


def test_an_interrupted_trial_can_be_given_up(open_study: OpenStudy) -> None:
    killed = open_study()
    item = killed.propose(flops=1e9)
    study = open_study()
    study.give_up(item.key, failure="no budget left")
    (record,) = study.records()
    assert (record.state, record.failure) == ("failed", "no budget left")


def test_a_trial_that_ended_for_want_of_budget_is_continued_as_it_was(open_study: OpenStudy) -> None:
    study = open_study()
    for _ in CONTROLS:
        run_one(study, distances=(10.0, 8.0))
    unpaid = study.propose(flops=1e9)
    study.finish(unpaid, Outcome(status="unpaid", look=look(0.5, 9.0), failure="the budget was spent"))
    assert study.records()[-1].state == "unpaid", "nothing was wrong with it"
    failed = study.propose(flops=1e9)
    study.finish(failed, Outcome(status="failed", failure="the loss is not finite"))
    assert open_study().revive_unpaid() == 1
    study = open_study()
    assert study.revive_unpaid() == 0, "once is enough"
    again = run_one(study, distances=(9.0, 7.0))
    assert (again.continues, again.policy, again.seed) == (unpaid.key, unpaid.policy, unpaid.seed)
    assert again.key != unpaid.key
    keys = [record.key for record in study.records()]
    assert unpaid.key not in keys, "what is continued is one trial, not two"
    assert again.key in keys
    assert study.num_trials == len(CONTROLS) + 2 == len(keys)
    assert study.revive_unpaid() == 0


def test_a_control_without_parameters_is_continued_too(open_study: OpenStudy) -> None:
    study = open_study()
    unpaid = study.propose(flops=1e9)
    assert unpaid.label == IMAGE_ONLY
    study.finish(unpaid, Outcome(status="unpaid", failure="the budget was spent"))
    study.revive_unpaid()
    items = [run_one(study, distances=(10.0, 8.0)) for _ in CONTROLS]
    (again,) = (item for item in items if item.label == IMAGE_ONLY)
    assert (again.continues, again.policy, again.seed) == (unpaid.key, unpaid.policy, unpaid.seed)


def test_a_failed_trial_never_gets_a_distance(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study()
    item = study.propose(flops=1e9)
    study.finish(item, Outcome(status="failed", look=look(0.5, 3.0), failure="the loss is not finite"))
    (record,) = read_records(tmp_path / "study.db")
    assert (record.state, record.distance, record.failure) == ("failed", None, "the loss is not finite")


def test_a_repeated_policy_gets_a_new_seed(tmp_path: Path) -> None:
    (control,) = (c for c in CONTROLS if c.name == "gaussian-blur")
    twice = [control, type(control)(name="again", policy=Policy.from_dict(control.policy.to_dict()))]
    study = SearchStudy(tmp_path / "study.db", space=SPACE, controls=twice, seed=5, rungs=(0.5, 1.0))
    seeds = [run_one(study, distances=(9, 8)).seed for _ in twice]
    assert seeds == [trial_seed(5, repeat=0), trial_seed(5, repeat=1)]
    assert seeds[0] != seeds[1]


def test_there_are_no_records_before_there_is_a_study(tmp_path: Path) -> None:
    assert read_records(tmp_path / "study.db") == ()


def test_every_default_control_but_image_only_lies_in_the_default_space() -> None:
    outside = [c.name for c in default_controls() if not SPACE.contains(c.policy)]
    assert outside == []
    assert default_controls()[0].policy.is_image_only
