"""Progress lines say what happened, what is best so far, and what is spent and left."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from told import PLANNED, searched

from autopv.report.progress import ProgressLines, plan_lines


def lines(*events: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = ()) -> list[str]:
    stream = io.StringIO()
    with ProgressLines(stream=stream, earlier=earlier) as view:
        for event in events:
            view.take(event)
            view.tick()
    return stream.getvalue().splitlines()


def look(**fields: Any) -> Mapping[str, Any]:
    return {"event": "look", "phase": "search", "key": "search-0001", "label": "search-0001", "fraction": 1.0,
            "distance": 500.0, "steps": 400, "goes_on": False, "spent_s": 300.0, **fields}  # fmt: skip


def test_the_plan_says_what_the_budget_buys_and_whether_a_verdict_is_affordable() -> None:
    text = " ".join(plan_lines(PLANNED))
    for part in ("300 images", "180 train", "about 14 trials of 400 steps", "1 block of 8 arms", "not enough evidence"):
        assert part in text
    assert "32cpu-min would buy one" in text
    assert "a/broken.png" in text
    affordable = " ".join(plan_lines({**PLANNED, "num_blocks": 3}))
    assert "a verdict is affordable" in affordable


def test_the_plan_tells_of_masks_and_of_what_their_want_leaves_out() -> None:
    assert not any("mask" in line for line in plan_lines(PLANNED))
    assert "120 images have a marked defect" in " ".join(plan_lines({**PLANNED, "num_defective": 120}))
    assert not any("by class" in line for line in plan_lines(PLANNED))
    assert "by class: crack (9), good (90)" in plan_lines({**PLANNED, "classes": {"crack": 9, "good": 90, ".": 0}})
    without = " ".join(plan_lines({**PLANNED, "left_out_ops": ["defect_fade"]}))
    assert "for want of defect masks: defect_fade" in without


def test_the_plan_tells_where_the_model_bounds_the_length() -> None:
    assert not any("frames" in line for line in plan_lines(PLANNED))
    assert "at most 6 frames" in " ".join(plan_lines({**PLANNED, "max_frames": 6}))


def test_the_plan_says_how_far_it_is_to_the_training_that_counts() -> None:
    assert not any("the training this is for" in line for line in plan_lines(PLANNED))
    equal = " ".join(plan_lines({**PLANNED, "train_steps": 400, "train_needs_s": 1900}))
    assert "as long as the training this is for (400 steps): nothing is extrapolated" in equal
    longer = " ".join(plan_lines({**PLANNED, "train_steps": 3000, "train_needs_s": 13_000}))
    assert "(3000 steps) is 7.5 times as long as a trial" in longer
    assert "217cpu-min would buy trials as long" in longer


def test_the_plan_says_what_is_tried_first_and_what_not() -> None:
    event = {**PLANNED, "given": ["given-1: T=2 ..."], "given_left_out": ["a.json: needs defect masks"]}
    text = " ".join(plan_lines(event))
    assert "tried first: given-1: T=2 ..." in text
    assert "left out: a.json: needs defect masks" in text


def test_every_line_tells_what_is_spent_and_left() -> None:
    (line,) = lines(look(), earlier=[PLANNED])
    assert "50% spent, 5.0 min left" in line


def test_the_best_so_far_is_told_with_its_name() -> None:
    told = lines(
        look(), look(key="a", label="random-1", distance=450.0), look(key="b", label="search-0002", distance=480.0)
    )
    assert "best so far 500.0 (search-0001)" in told[0]
    assert "best so far 450.0 (random-1)" in told[1]
    assert "best so far 450.0 (random-1)" in told[2]


def test_a_rung_says_whether_its_trial_goes_on() -> None:
    goes_on, stopped = lines(look(fraction=0.5, goes_on=True), look(fraction=0.5))
    assert "goes on" in goes_on
    assert "stopped here" in stopped


def test_failures_are_told_with_their_reason() -> None:
    event = {
        "event": "item_ended",
        "phase": "search",
        "key": "a",
        "label": "noise",
        "status": "failed",
        "failure": "the loss is not finite",
    }
    (line,) = lines(event)
    assert "the loss is not finite" in line


def test_unknown_events_are_passed_over() -> None:
    assert lines({"event": "something_new", "time": 1}) == []


def test_what_was_best_before_an_interruption_is_best_still() -> None:
    (line,) = lines(look(distance=800.0), earlier=searched().events)
    assert "best so far 550.0 (gaussian-blur)" in line


def test_now_and_then_a_line_says_what_is_under_way() -> None:
    told = lines(*searched().events)
    assert "under way" not in told[-1], "a line was written just before"
    progress = {"event": "progress", "key": "search-0003", "label": "search-0003", "progress": 0.8, "spent_s": 60.0}
    (line,) = lines(progress, earlier=searched().events)
    assert "under way: search-0003 80%, search-0004 22%" in line


def test_a_launch_says_what_it_goes_on_with() -> None:
    launched = {"event": "launched", "budget": "20cpu-min", "num_workers": 2, "spent_s": 0.0}
    assert lines(launched) == []
    (line,) = lines({**launched, "spent_s": 300.0})
    assert "25% spent, 15.0 min left | Going on with this run, whose budget is 20cpu-min." in line
