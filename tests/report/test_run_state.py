"""What is known of a job follows from its events."""

import pytest
from told import Event, Story, searched, verified

from autopv.policy import Policy
from autopv.report.run_state import RunState
from autopv.verify.blocks import Arm, Distance
from autopv.verify.verdict import reach_verdict


def state_after(*events: Event) -> RunState:
    state = RunState()
    for event in events:
        state.take(event)
    return state


def test_trials_are_counted_by_status_and_rung() -> None:
    state = state_after(*searched().events)
    assert state.counts("search") == {"complete": 2, "stopped": 1, "failed": 1, "running": 2}
    assert state.rungs == (0.5, 1.0)
    assert {item.key: item.last_rung for item in state.of_phase("search", status="running")} == {
        "search-0003": 0.5,
        "search-0004": 0.0,
    }


def test_the_best_and_image_only_are_trials_at_full_compute() -> None:
    state = state_after(*searched().look("search-0004", fraction=0.5, distance=1.0, goes_on=True).events)
    best, reference = state.best("search"), state.reference()
    assert best is not None
    assert (best.label, best.distance) == ("gaussian-blur", 550.0)
    assert reference is not None
    assert reference.distance == 600.0


def test_a_zero_distance_is_the_least() -> None:
    state = state_after(*Story().planned().search().whole("a", distance=0.5).whole("b", distance=0.0).events)
    best = state.best("search")
    assert best is not None
    assert best.key == "b"


def test_the_time_left_is_what_the_recent_rate_makes_of_the_budget() -> None:
    state = state_after(*searched().events)
    assert state.left_s is not None
    assert state.eta_s == pytest.approx(state.left_s / 2.0)  # two device-seconds a second
    assert state.reserve_s == 210.0


def test_a_number_of_trials_ends_at_the_rate_at_which_trials_end() -> None:
    story = Story().planned(budget="8trials").search(reserve_s=0.0)
    for number in range(3):
        story.whole(f"search-{number}", distance=500.0)
    state = state_after(*story.events)
    assert state.left_s is None
    assert state.eta_s == pytest.approx((8 - 3) * 9.0)  # three events of three seconds each
    assert state_after(*story.events[:4]).eta_s is None


def test_the_verification_of_a_trials_budget_has_a_known_number_of_runs() -> None:
    story = Story().planned(budget="8trials").search().whole("a", distance=500.0).verify("image-only", "a")
    state = state_after(*story.events)
    assert state.num_planned == 3 * 2
    assert state.num_ended == 0
    assert state.reserve_s == 0.0


def test_blocks_are_weighed_as_the_verdict_weighs_them() -> None:
    state = state_after(*verified(num_blocks=3).events)
    evidence = state.evidence()
    assert evidence is not None
    arms = [Arm(name=name, kind="control", policy=Policy.image_only()) for name in state.arms]
    distances = [
        Distance(arm=item.label, seed=item.seed or 0, distance=item.distance)
        for item in state.of_phase("verify", status="complete")
    ]
    verdict = reach_verdict(arms, distances, floor=100.0, trained_for="400 steps")
    assert evidence.comparisons == verdict.comparisons
    assert len(evidence.seeds) == 3
    assert evidence.comparisons[1].gain_low is not None


def test_an_arm_that_failed_in_a_block_is_left_out() -> None:
    story = verified(num_blocks=1).look("verify-image-only-1", distance=610.0).end("verify-image-only-1", "complete")
    story.start("verify-gaussian-blur-1", label="gaussian-blur", seed=1)
    story.end("verify-gaussian-blur-1", "failed", failure="the loss is nan")
    story.whole("verify-search-0007-1", label="search-0007", seed=1, distance=500.0)
    evidence = state_after(*story.events).evidence()
    assert evidence is not None
    assert evidence.failed == ("gaussian-blur",)
    assert [c.arm for c in evidence.comparisons] == ["image-only", "search-0007"]


def test_failures_are_counted_by_cause_whatever_their_numbers() -> None:
    story = searched().start("search-0005").end("search-0005", "failed", failure="the loss is nan at step 230")
    story.start("search-0006").end("search-0006", "failed", failure="out of memory")
    story.start("search-0007").end("search-0007", "unpaid", failure="the budget was spent")
    assert state_after(*story.events).failures() == {"the loss is nan at step #": 2, "out of memory": 1}


def test_what_ran_when_a_launch_ended_waits_until_it_is_started_again() -> None:
    story = searched().launched(budget="20cpu-min", num_workers=4)
    state = state_after(*story.events)
    assert state.counts("search")["waiting"] == 2
    assert (str(state.budget), state.num_workers, state.eta_s) == ("20cpu-min", 4, None)
    state = state_after(*story.search().start("search-0003").events)
    assert state.counts("search") == {"complete": 2, "stopped": 1, "failed": 1, "running": 1, "waiting": 1}
    state = state_after(*story.verify("image-only").events)
    assert state.counts("search")["unpaid"] == 1


def test_a_trial_that_more_budget_continues_is_one_trial() -> None:
    story = searched().end("search-0003", "unpaid", failure="the budget was spent").end("search-0004", "unpaid")
    story.launched(budget="20cpu-min", num_workers=2).search().start("search-0005", continues="search-0003")
    state = state_after(*story.events)
    assert state.counts("search") == {"complete": 2, "stopped": 1, "failed": 1, "unpaid": 1, "running": 1}
    assert state.items["search-0005"].last_rung == 0.5


def test_lost_workers_and_breakdowns_of_ray_are_counted() -> None:
    story = searched().lose("search-0003", reason="killed by signal 9")
    assert state_after(*story.events).counts("search")["waiting"] == 1
    story.tell("ray_failed", reason="OutOfMemoryError", attempt=1)
    state = state_after(*story.events)
    assert (state.workers_lost, state.num_breakdowns) == ({"killed by signal #": 1}, 1)
    assert state.counts("search")["waiting"] == 2


def test_an_event_of_a_kind_not_known_here_is_passed_over() -> None:
    assert state_after({"event": "something_new", "time": 1}).items == {}
