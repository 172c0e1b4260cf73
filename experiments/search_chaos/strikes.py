"""When a driver or a worker is killed, and what is written down of it."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]

# How long after its moment a kill may come, in seconds; drawn evenly.
SPANS_S = {
    "start-up": 8.0,
    "training": 20.0,
    "measurement": 1.0,
    "end of a trial": 0.1,
    "verification": 12.0,
}
WORKER_SPAN_S = 15.0
# Workers report every two seconds: what has not begun to be measured by then is foretold again.
_FORETOLD_S = 2.2


@dataclass(frozen=True, kw_only=True)
class Blow:
    """One planned kill of a driver, and of a worker before it where `worker_delay_s` is given.

    The worker is killed so long after the first one of this launch was seen; only then does the moment count.
    """

    moment: str
    delay_s: float
    worker_delay_s: float | None = None


@dataclass(kw_only=True)
class Strike:
    """One kill that was carried out.

    victim: driver or worker; pid: its process. moment: what it aimed at. in_flight: items started and not ended.
    positions: work of these items, in trainings, that a checkpoint held once the dead were gone.
    snapshot: where the databases lie as they were then, for a driver.
    """

    victim: str
    pid: int
    launch: int
    time_s: float
    moment: str
    phase: str
    in_flight: list[str] = field(default_factory=list)
    positions: dict[str, float] = field(default_factory=dict)
    snapshot: str | None = None


def long_schedule(num: int, *, seed: int) -> list[Blow]:
    """`num` blows: the first in start-up, at least the last fifth in verification, all moments among those between."""
    draw = random.Random(seed)
    num_verification = max(1, num // 5)
    moments = ["training", "measurement", "end of a trial", "start-up"]
    between = [moments[i % len(moments)] for i in range(max(0, num - num_verification - 1))]
    draw.shuffle(between)
    named = [*["start-up", *between][: num - num_verification], *["verification"] * num_verification]
    return [_blow(moment, draw=draw, with_worker=i % 2 == 1) for i, moment in enumerate(named)]


def short_schedule(*, seed: int) -> list[Blow]:
    """Two blows, as early as they can come: the first once a trial has ended, so that there is one to be lost."""
    draw = random.Random(seed)
    return [
        Blow(moment="end of a trial", delay_s=draw.uniform(0.5, 2.5)),
        Blow(moment="start-up", delay_s=draw.uniform(0.0, 4.0)),
    ]


def final_worker_delays(*, short: bool, seed: int) -> list[float]:
    """When workers are killed in the last launch, which nothing else disturbs."""
    draw = random.Random(seed + 1)
    return [draw.uniform(2.0, 6.0)] if short else [draw.uniform(5.0, 15.0), draw.uniform(20.0, 30.0)]


def due_s(moment: str, events: Sequence[Event], *, rungs: Callable[[str], Sequence[float]]) -> float | None:
    """When the moment came (or will, within two seconds) in this launch, from its events; None if not yet."""
    if moment == "start-up":
        return _first(events, lambda event: event["event"] == "phase")
    if moment == "training":
        return _first(events, _trains)
    if moment == "verification":
        return _first(events, lambda event: _trains(event) and event["key"].startswith("verify-"))
    if moment == "end of a trial":
        return _first(events, lambda event: event["event"] == "look" and not event["goes_on"])
    assert moment == "measurement"
    return _next_measurement_s(events, rungs=rungs)


def _next_measurement_s(events: Sequence[Event], *, rungs: Callable[[str], Sequence[float]]) -> float | None:
    """When the item that reported last will have trained up to its next rung, by the rate of its last two reports."""
    latest: dict[str, Event] = {}
    found = None
    for event in events:
        if event["event"] == "look":
            latest.pop(event["key"], None)
        if event["event"] != "progress":
            continue
        before, latest[event["key"]] = latest.get(event["key"]), event
        if before is None or event["progress"] <= before["progress"]:
            continue
        rate = (event["progress"] - before["progress"]) / (event["time"] - before["time"])
        left = [rung - event["progress"] for rung in rungs(event["key"]) if rung >= event["progress"]]
        if left and left[0] / rate <= _FORETOLD_S:
            found = event["time"] + left[0] / rate
    return found


def _trains(event: Event) -> bool:
    """Whether an item is in the midst of its training now."""
    return event["event"] == "progress" or (event["event"] == "look" and bool(event["goes_on"]))


def _first(events: Sequence[Event], holds: Callable[[Event], bool]) -> float | None:
    return next((float(event["time"]) for event in events if holds(event)), None)


def _blow(moment: str, *, draw: random.Random, with_worker: bool) -> Blow:
    delay_s = draw.uniform(0.0, SPANS_S[moment])
    worker_delay_s = draw.uniform(0.0, WORKER_SPAN_S) if with_worker and moment != "start-up" else None
    return Blow(moment=moment, delay_s=delay_s, worker_delay_s=worker_delay_s)
