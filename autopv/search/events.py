"""The event log: one JSON line per thing that happened, for the live view, for `status`, and for whoever asks later.

`EVENTS` lists all events with their fields; every record also has `time` (seconds since the epoch) and `event`.
`autopv search --json` and `autopv resume --json` print the same records as they come, and `result` at the end.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Listener = Callable[[Mapping[str, Any]], None]

_PHASE = "search or verify"
_KEY = "names the trial or verification run, and its folder"
_LABEL = "what it is called: the name of a control or arm, else its key"
_SPENT_S = "device-seconds charged so far, over all launches"
_DISTANCE = "last-frame distance on the phase's split"

EVENTS: Mapping[str, Mapping[str, str]] = {
    # Before there is a run folder (or before it is written to): told to the listener, not in the log.
    "calibrating": {
        "num_images": "images that were loaded",
    },
    "planned": {
        "budget": "as --budget states it",
        "num_workers": "trials at a time",
        "trial_steps": "image-only steps that the compute of one full trial pays for",
        "trial_s": "device-seconds that one trial is expected to take",
        "num_trials": "trials that the budget is expected to buy",
        "num_blocks": "verification blocks that budget is kept back for",
        "num_seeds": "verification blocks asked for",
        "num_arms": "arms in a block",
        "rungs": "shares of a trial's compute at which it is measured",
        "train_steps": "image-only steps of the training that the search is for; null: those of a trial",
        "given": "policies to try first, by name",
        "given_left_out": "why other given policies are not tried",
        "reserve_s": "device-seconds kept back for the verification; null without a time budget",
        "verdict_needs_s": "device-seconds that would buy a verdict",
        "train_needs_s": "device-seconds that would buy a verdict on trials as long as the training it is for",
        "num_images": "images in use",
        "skipped": "broken images that were left out, with reasons",
        "num_defective": "images with a marked defect; null where the data has no masks",
        "classes": "training images of each class, and of no known one ('.'), where models learn by class; else null",
        "max_frames": "frames of the longest policies searched, where the model takes no more; else null",
        "left_out_ops": "ops left out of the search for want of defect masks",
        "splits": "numbers of images to train, search and final",
        "metric": "identity of the metric on the search split",
        "metric_reason": "why this metric",
    },
    "launched": {
        "budget": "what holds from here on, with all that was added",
        "num_workers": "trials at a time",
        "spent_s": _SPENT_S + ": more than 0 if it was launched before",
    },
    "phase": {
        "phase": _PHASE,
        "arms": "names of the arms to verify; null in the search",
        "num_blocks": "verification blocks at most, those of earlier launches included; null in the search",
        "reserve_s": "device-seconds that the search keeps back for the verification, as far as is known now",
        "floor": "distance of real training images on the phase's split: excess is distance minus this",
        "spent_s": _SPENT_S,
    },
    "item_started": {
        "phase": _PHASE,
        "key": _KEY,
        "label": _LABEL,
        "seed": "its training seed",
        "continues": "the trial that ended for want of budget and is gone on with under this key; else null",
        "policy": "its policy in words",
    },
    "progress": {
        "key": _KEY,
        "label": _LABEL,
        "progress": "share of its compute behind it",
        "spent_s": _SPENT_S,
    },
    "look": {
        "phase": _PHASE,
        "key": _KEY,
        "label": _LABEL,
        "fraction": "the rung: share of its compute after which it was measured",
        "distance": _DISTANCE,
        "steps": "steps trained",
        "goes_on": "whether it goes on to its next rung",
        "spent_s": _SPENT_S,
    },
    "item_ended": {
        "phase": _PHASE,
        "key": _KEY,
        "label": _LABEL,
        "seed": "its training seed",
        "status": "complete, stopped (at a rung), failed, or unpaid (the budget was spent first)",
        "failure": "why it failed or was not paid for; else null",
        "distance": "its last distance; null without one",
        "spent_s": _SPENT_S,
    },
    "worker_lost": {
        "key": _KEY,
        "label": _LABEL,
        "reason": "what became of the worker",
        "goes_on": "whether another worker goes on with it, from its last checkpoint; else it has failed",
    },
    "ray_failed": {
        "reason": "what Ray Tune broke down with; it is started again",
        "attempt": "how often that has happened in this launch",
    },
    "concluded": {
        "conclusion": "of the verdict",
        "spent_s": _SPENT_S,
    },
    # Printed by --json alone: result.json as an event.
    "result": {
        "budget": "with all that was added",
        "settings": "what the run was asked to do (run.json)",
        "verdict": "conclusion, recommended arm, sentence, and the numbers behind them",
        "recommended_policy": "the recommended policy in words",
        "best_found": "policy and trial of the best that was searched, and what is expected of it; null without any",
        "expected": "for each policy that ran to the end: runs, and the change of excess expected against image-only",
        "outlook": "what to expect of the training that the search is for; null where trials are as long",
        "arms": "the verified arms",
        "classes": "of each arm, distances within each class on the final split; null where models know no classes",
        "floors": "floor of each split",
        "metrics": "identity of the metric on each split",
        "spent_s": _SPENT_S,
        "spent_by_phase_s": "device-seconds of search and verify",
        "use_s": "device-seconds by use",
        "use_by_phase_s": "device-seconds by use, of search and verify",
        "trials": "every trial with its looks",
    },
}


class EventLog:
    """Appends events to a file and hands each to a listener."""

    def __init__(self, path: Path, *, listener: Listener | None = None) -> None:
        self._path = path
        self._listener = listener
        _end_cut_line(path)

    def emit(self, event: str, /, **fields: Any) -> None:
        """Writes the event down at once (a crash may cut the last line, which readers skip)."""
        record = event_record(event, **fields)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._listener is not None:
            self._listener(record)


def event_record(event: str, /, **fields: Any) -> Mapping[str, Any]:
    """The record of something that happens now."""
    return {"time": round(time.time(), 3), "event": event, **fields}


def read_events(path: Path, *, before_s: float = math.inf) -> Iterator[Mapping[str, Any]]:
    """The events of a log (before a time, if one is given), oldest first; lines cut by a crash are skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict) and record.get("time", 0.0) < before_s:
                yield record


def _end_cut_line(path: Path) -> None:
    """Ends a line that a crash cut, so that the next event does not become a part of it."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
