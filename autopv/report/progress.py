"""Progress as plain lines: one for each thing that happened, and one now and then for what is under way."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from autopv.report.numbers import distance_text
from autopv.search.budget import Budget, device_time_text, rounded_up
from autopv.verify.statistics import MIN_BLOCKS

_HEARTBEAT_S = 15.0


class ProgressLines:
    """Listens to a job's events and writes lines for people; give it to `start_job` as its listener."""

    def __init__(self, budget: Budget | None = None, *, stream: TextIO | None = None) -> None:
        self._budget, self._stream = budget, stream or sys.stderr
        self._started_s = time.time()
        self._spent_s = 0.0
        self._best: tuple[float, str] | None = None
        self._under_way: dict[str, tuple[str, float]] = {}
        self._last_line_s = 0.0

    def __call__(self, event: Mapping[str, Any]) -> None:
        self._spent_s = event.get("spent_s", self._spent_s)
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _on_calibrating(self, event: Mapping[str, Any]) -> None:
        self._line(f"{event['num_images']} images loaded; measuring the speed of this machine.")

    def _on_planned(self, event: Mapping[str, Any]) -> None:
        self._budget = Budget.parse(event["budget"])
        for line in plan_lines(event):
            self._line(line)

    def _on_launched(self, event: Mapping[str, Any]) -> None:
        self._budget = Budget.parse(event["budget"])
        if event["spent_s"] > 0:
            self._line(f"Going on with this run, whose budget is {self._budget}.")

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        if event["phase"] == "verify":
            self._best = None
            self._line(
                f"Verifying {len(event['arms'])} arms on fresh seeds and the final split: {', '.join(event['arms'])}"
            )
        else:
            self._line("Starting the workers.")

    def _on_item_started(self, event: Mapping[str, Any]) -> None:
        self._under_way[event["key"]] = (event["label"], 0.0)

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self._under_way[event["key"]] = (event["label"], event["progress"])
        if time.time() - self._last_line_s >= _HEARTBEAT_S:
            running = ", ".join(f"{label} {100 * progress:.0f}%" for label, progress in self._under_way.values())
            self._line(f"under way: {running}")

    def _on_look(self, event: Mapping[str, Any]) -> None:
        label, fraction, distance = event["label"], event["fraction"], event["distance"]
        if fraction >= 1:
            if self._best is None or distance < self._best[0]:
                self._best = (distance, label)
            best = f"best so far {distance_text(self._best[0])} ({self._best[1]})"
            self._line(f"{label:<14} full compute  distance {distance_text(distance):>8}   {best}")
        else:
            fate = "goes on" if event["goes_on"] else "stopped here"
            self._line(f"{label:<14} rung {fraction:>4.0%}     distance {distance_text(distance):>8}   {fate}")

    def _on_item_ended(self, event: Mapping[str, Any]) -> None:
        self._under_way.pop(event["key"], None)
        if event["status"] in ("failed", "unpaid"):
            self._line(f"{event['label']:<14} {event['status']}: {event['failure']}")

    def _on_worker_lost(self, event: Mapping[str, Any]) -> None:
        self._line(f"{event['label']:<14} lost its worker; going on from its last checkpoint")

    def _on_ray_failed(self, event: Mapping[str, Any]) -> None:
        self._line(f"Ray Tune broke down and is started again (attempt {event['attempt']}): {event['reason']}")

    def _line(self, text: str) -> None:
        self._last_line_s = time.time()
        minutes, seconds = divmod(int(time.time() - self._started_s), 60)
        spent = ""
        if self._budget is not None and self._budget.device_s is not None:
            left_s = max(0.0, self._budget.device_s - self._spent_s)
            spent = f" {self._spent_s / self._budget.device_s:4.0%} spent, {left_s / 60:.1f} min left |"
        print(f"{minutes:3d}:{seconds:02d} |{spent} {text}", file=self._stream, flush=True)


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
    if event["left_out_ops"]:
        lines.append(f"left out of the search, for want of defect masks: {', '.join(event['left_out_ops'])}")
    if event["skipped"]:
        lines.append(f"{len(event['skipped'])} broken ones skipped: " + "; ".join(event["skipped"][:5]))
    trials = f"{event['num_trials']} trials" if budget.device_s is None else f"about {event['num_trials']} trials"
    lines.append(
        f"{budget} buys {trials} of {event['trial_steps']} steps, about {event['trial_s']:.0f} s each here, on "
        f"{event['num_workers']} worker{'s' * (event['num_workers'] > 1)}"
    )
    blocks = f"{event['num_blocks']} block{'s' * (event['num_blocks'] != 1)} of {event['num_arms']} arms on fresh seeds"
    if event["num_blocks"] >= MIN_BLOCKS:
        lines.append(f"and a verification in {blocks}" + _reserve(event, budget) + ": a verdict is affordable")
    else:
        lines.append(
            f"and {blocks} of the {MIN_BLOCKS} that a verdict needs{_reserve(event, budget)}: expect "
            f'"not enough evidence"; about {rounded_up(event["verdict_needs_s"], device=budget.device)} would buy one'
        )
    return lines


def _reserve(event: Mapping[str, Any], budget: Budget) -> str:
    if not event["reserve_s"]:
        return ""
    return f" ({device_time_text(round(event['reserve_s']), device=budget.device)} kept back for it)"
