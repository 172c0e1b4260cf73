"""Progress as plain lines: one for each thing that happened, and one now and then for what is under way."""

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from autopv.report.class_table import class_counts_text
from autopv.report.numbers import distance_text
from autopv.report.run_state import RunState
from autopv.search.budget import Budget, device_time_text, rounded_up
from autopv.verify.statistics import MIN_BLOCKS

_HEARTBEAT_S = 15.0


class ProgressLines:
    """A view that writes lines for people, anywhere; earlier: the events of the launches before this one."""

    def __init__(self, *, stream: TextIO, earlier: Iterable[Mapping[str, Any]] = ()) -> None:
        self._stream, self._earlier = stream, earlier
        self._state = RunState()
        self._started_s = time.time()
        self._last_line_s = 0.0

    def __enter__(self) -> Self:
        for event in self._earlier:
            self._state.take(event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing: every line was written when it came."""

    def take(self, event: Mapping[str, Any]) -> None:
        """Writes what there is to say about an event."""
        self._state.take(event)
        for line in progress_lines(event, state=self._state):
            self.note(line)
        if event["event"] == "progress" and time.time() - self._last_line_s >= _HEARTBEAT_S:
            self.note(f"under way: {under_way(self._state)}")

    def tick(self) -> None:
        """Nothing: lines are written when something happens."""

    def note(self, text: str) -> None:
        """Writes one line, behind the time and what is spent."""
        self._last_line_s = time.time()
        budget, left_s, spent = self._state.budget, self._state.left_s, ""
        if budget is not None and budget.device_s is not None and left_s is not None:
            spent = f" {self._state.spent_s / budget.device_s:4.0%} spent, {left_s / 60:.1f} min left |"
        print(f"{clock_text(time.time() - self._started_s)} |{spent} {text}", file=self._stream, flush=True)


def progress_lines(event: Mapping[str, Any], *, state: RunState) -> list[str]:
    """What to tell people of an event that `state` has taken in; nothing for many."""
    label = f"{event['label']:<14}" if "label" in event else ""
    match event["event"]:
        case "calibrating":
            return [f"{event['num_images']} images loaded; measuring the speed of this machine."]
        case "planned":
            return plan_lines(event)
        case "launched" if event["spent_s"] > 0:
            return [f"Going on with this run, whose budget is {event['budget']}."]
        case "phase" if event["phase"] == "verify":
            arms = event["arms"]
            return [f"Verifying {len(arms)} arms on fresh seeds and the final split: {', '.join(arms)}"]
        case "phase":
            return ["Starting the workers."]
        case "look":
            return [f"{label} {_look_text(event, state=state)}"]
        case "item_ended" if event["status"] in ("failed", "unpaid"):
            return [f"{label} {event['status']}: {event['failure']}"]
        case "worker_lost":
            goes_on = "; going on from its last checkpoint" if event["goes_on"] else ""
            return [f"{label} lost its worker ({event['reason']}){goes_on}"]
        case "ray_failed":
            return [f"Ray Tune broke down and is started again (attempt {event['attempt']}): {event['reason']}"]
        case _:
            return []


def under_way(state: RunState) -> str:
    """Everything that runs now, with its progress."""
    running = state.of_phase(state.item_phase, status="running")
    return ", ".join(f"{item.label} {item.progress:.0%}" for item in running)


def clock_text(seconds: float) -> str:
    """Minutes and seconds since the start.

    >>> clock_text(61.4)
    '  1:01'
    """
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes:3d}:{seconds:02d}"


def plan_lines(event: Mapping[str, Any]) -> list[str]:
    """What a budget buys on this machine, in words, from a `planned` event."""
    budget = Budget.parse(event["budget"])
    train, search, final = event["splits"]
    metric = event["metric"]
    lines = [
        f"{event['num_images']} images ({train} train, {search} search, {final} final"
        + f"); metric {metric['name']} at {metric['input_size_px']} px input, n = {metric['num_images']}",
        f"this metric: {event['metric_reason']}",
    ]
    if event["num_defective"] is not None:
        lines.append(f"defect masks: {event['num_defective']} images have a marked defect")
    if event.get("classes"):
        lines.append(class_counts_text(event["classes"]))
    if event.get("max_frames"):  # runs of earlier versions tell nothing of it
        lines.append(f"policies have at most {event['max_frames']} frames: this model takes no more at this image size")
    if event["left_out_ops"]:
        lines.append(f"left out of the search, for want of defect masks: {', '.join(event['left_out_ops'])}")
    if event["skipped"]:
        lines.append(f"{len(event['skipped'])} broken ones skipped: " + "; ".join(event["skipped"][:5]))
    trials = f"{event['num_trials']} trials" if budget.device_s is None else f"about {event['num_trials']} trials"
    lines.append(
        f"{budget} buys {trials} of {event['trial_steps']} steps, about {event['trial_s']:.0f} s each here, on "
        f"{event['num_workers']} worker{'s' * (event['num_workers'] > 1)}"
    )
    lines += _target_lines(event, device=budget.device)
    if event.get("given"):
        lines.append(f"tried first: {'; '.join(event['given'])}")
    if event.get("given_left_out"):
        lines.append(f"given, but left out: {'; '.join(event['given_left_out'])}")
    blocks = f"{event['num_blocks']} block{'s' * (event['num_blocks'] != 1)} of {event['num_arms']} arms on fresh seeds"
    if event["num_blocks"] >= MIN_BLOCKS:
        lines.append(f"and a verification in {blocks}" + _reserve(event, budget) + ": a verdict is affordable")
    else:
        lines.append(
            f"and {blocks} of the {MIN_BLOCKS} that a verdict needs{_reserve(event, budget)}: expect "
            f'"not enough evidence"; about {rounded_up(event["verdict_needs_s"], device=budget.device)} would buy one'
        )
    return lines


def _target_lines(event: Mapping[str, Any], *, device: str) -> list[str]:
    """How far it is from a trial to the training that the search is for."""
    steps = event.get("train_steps")
    if steps is None:
        return []
    if steps <= event["trial_steps"]:
        return [f"trials are as long as the training this is for ({steps} steps): nothing is extrapolated"]
    return [
        f"the training this is for ({steps} steps) is {steps / event['trial_steps']:.3g} times as long as a trial: "
        f"what trials show of it is an extrapolation; about {rounded_up(event['train_needs_s'], device=device)} would "
        "buy trials as long"
    ]


def _look_text(event: Mapping[str, Any], *, state: RunState) -> str:
    fraction, distance = event["fraction"], distance_text(event["distance"])
    if fraction >= 1:
        best = state.best(event["phase"])
        assert best is not None
        assert best.distance is not None
        so_far = f"best so far {distance_text(best.distance)} ({best.label})"
        return f"full compute  distance {distance:>8}   {so_far}"
    fate = "goes on" if event["goes_on"] else "stopped here"
    return f"rung {fraction:>4.0%}     distance {distance:>8}   {fate}"


def _reserve(event: Mapping[str, Any], budget: Budget) -> str:
    if not event["reserve_s"]:
        return ""
    return f" ({device_time_text(round(event['reserve_s']), device=budget.device)} kept back for it)"
