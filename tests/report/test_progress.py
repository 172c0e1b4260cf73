"""Progress lines say what happened, what is best so far, and what is spent and left."""

import io
from collections.abc import Mapping
from typing import Any

from autopv.report.progress import ProgressLines, plan_lines
from autopv.search.budget import Budget

PLANNED: Mapping[str, Any] = {
    "event": "planned",
    "budget": "10cpu-min",
    "num_workers": 2,
    "trial_steps": 400,
    "trial_s": 25.2,
    "num_trials": 14,
    "num_blocks": 1,
    "num_seeds": 3,
    "num_arms": 8,
    "reserve_s": 210.4,
    "verdict_needs_s": 1900,
    "num_images": 300,
    "skipped": ["a/broken.png: truncated"],
    "num_defective": None,
    "left_out_ops": [],
    "splits": [180, 60, 60],
    "metric": {"name": "fd_lite0", "input_size_px": 64, "num_images": 60},
    "metric_reason": "as asked for",
}


def lines(*events: Mapping[str, Any], budget: str = "10cpu-min") -> list[str]:
    stream = io.StringIO()
    listener = ProgressLines(Budget.parse(budget), stream=stream)
    for event in events:
        listener(event)
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
    without = " ".join(plan_lines({**PLANNED, "left_out_ops": ["defect_fade"]}))
    assert "for want of defect masks: defect_fade" in without


def test_every_line_tells_what_is_spent_and_left() -> None:
    (line,) = lines(look())
    assert "50% spent, 5.0 min left" in line


def test_the_best_so_far_is_told_with_its_name() -> None:
    told = lines(look(), look(label="random-1", distance=450.0), look(label="search-0002", distance=480.0))
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
        "key": "a",
        "label": "noise",
        "status": "failed",
        "failure": "the loss is not finite",
    }
    (line,) = lines(event)
    assert "the loss is not finite" in line


def test_unknown_events_are_passed_over() -> None:
    assert lines({"event": "something_new", "time": 1}) == []
