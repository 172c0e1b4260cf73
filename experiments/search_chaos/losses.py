"""How much training was done twice: what a kill destroyed, against all that was trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from strikes import Event, Strike

# Workers report every two seconds.
_REPORT_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What one kill destroyed of one item, in trainings of its length.

    trained: how far it had come when its worker died; reported: how far at its last report. kept: what the checkpoint
    held. measuring: whether it was being measured by then. seconds: what the destroyed part took to train.
    """

    key: str
    trained: float
    reported: float
    kept: float
    measuring: bool
    seconds: float

    @property
    def lost(self) -> float:
        return max(0.0, self.trained - self.kept)


@dataclass(frozen=True)
class _Point:
    time_s: float
    work: float
    training: bool


class Work:
    """How far every item had come at any time, in trainings of its length, from the event log alone."""

    def __init__(self, events: Sequence[Event], *, search_rungs: Sequence[float]) -> None:
        self._search_rungs = tuple(search_rungs)
        self._points: dict[str, list[_Point]] = {}
        looks: dict[str, list[float]] = {}
        for event in events:
            if event["event"] not in ("progress", "look"):
                continue
            points, taken = self._points.setdefault(event["key"], []), looks.setdefault(event["key"], [])
            if event["event"] == "progress":
                points.append(_Point(event["time"], event["progress"], training=True))
            elif event["fraction"] not in taken:  # else a look of an earlier launch, told again
                points.append(_Point(event["time"], event["fraction"], training=False))
                taken.append(event["fraction"])
        rates = [rate for points in self._points.values() for rate in _rates(points)]
        self._rate = sum(rates) / len(rates) if rates else 0.0

    @property
    def seconds_per_training(self) -> float:
        """What a whole training takes, by the mean rate between reports."""
        return 1 / self._rate if self._rate else 0.0

    def useful(self) -> float:
        """All work that the search ended up with, in trainings."""
        return sum(max(point.work for point in points) for points in self._points.values() if points)

    def loss(self, key: str, strike: Strike, *, since_s: float, died_s: float, trains: bool) -> Loss:
        """What the kill destroyed of an item whose worker was given to it after `since_s` and died at `died_s`.

        trains: whether its worker had been seen to train at all. Between its last report and its death it is taken to
        have gone on at its own rate, up to its next measurement; but no longer than one report after a driver's death,
        since a worker is asked by its driver for each stretch of training between two reports.
        """
        died_s = min(died_s, strike.time_s + _REPORT_S)
        before = [point for point in self._points.get(key, ()) if point.time_s <= strike.time_s]
        reported = max((point.work for point in before), default=0.0)
        here = [point for point in before if point.time_s >= since_s]
        kept = strike.positions.get(key, 0.0)
        rate = (_rates(here) or [self._rate])[-1]
        if here:
            trained = here[-1].work + rate * (died_s - here[-1].time_s)
        elif trains:
            trained = kept + rate * min(_REPORT_S + died_s - strike.time_s, died_s - since_s)
        else:
            trained = kept
        begun = here[-1].work if here else kept
        rungs = (1.0,) if key.startswith("verify-") else self._search_rungs
        rung = next((rung for rung in rungs if rung > begun + 1e-6), None)
        measuring = rung is not None and trained >= rung
        trained = begun if rung is None else min(trained, rung)
        lost_s = max(0.0, trained - kept) / rate if rate else 0.0
        return Loss(key=key, trained=trained, reported=reported, kept=kept, measuring=measuring, seconds=lost_s)


def _rates(points: Sequence["_Point"]) -> list[float]:
    """Work per second between reports of training that came one right after the other."""
    return [
        (point.work - before.work) / (point.time_s - before.time_s)
        for before, point in pairwise(points)
        if before.training
        and point.training
        and point.work > before.work
        and point.time_s - before.time_s < 2 * _REPORT_S
    ]


def hit_keys(strike: Strike, events: Sequence[Event], *, until_s: float) -> list[str]:
    """The items that a kill hit: all of a driver's; of a worker's the one that autopv says was lost in this launch."""
    if strike.victim == "driver":
        return list(strike.in_flight)
    lost = [e["key"] for e in events if e["event"] == "worker_lost" and strike.time_s <= e["time"] < until_s]
    return lost[:1]


def losses_of(
    strike: Strike,
    events: Sequence[Event],
    *,
    work: Work,
    died_s: float,
    num_trained: int,
    launch_s: tuple[float, float],
) -> list[Loss]:
    """What a kill destroyed, item by item.

    died_s: when the last worker it hit was dead. num_trained: how many of those had been seen to train. launch_s: when
    the launch began, and the next.
    """
    since_s, until_s = launch_s
    ended = {
        event["key"]
        for event in events
        if event["event"] == "look" and not event["goes_on"] and event["time"] <= strike.time_s
    }
    keys = [key for key in hit_keys(strike, events, until_s=until_s) if key not in ended]
    given_s = {key: _given_s(key, events, since_s=since_s, until_s=strike.time_s) for key in keys}
    reports = [event for event in events if event["event"] in ("progress", "look") and event["time"] <= strike.time_s]
    told = {event["key"] for event in reports if event["time"] >= given_s.get(event["key"], math.inf)}
    # Which worker had which item is not seen from outside: those that never trained had items that never reported.
    silent = [key for key in keys if key not in told]
    idle = silent[: max(0, len(keys) - num_trained)]
    return [work.loss(key, strike, since_s=given_s[key], died_s=died_s, trains=key not in idle) for key in keys]


def _given_s(key: str, events: Sequence[Event], *, since_s: float, until_s: float) -> float:
    """From when on its last worker may have had the item: since the launch, or since the item lost the one before."""
    lost_s = [e["time"] for e in events if e["event"] == "worker_lost" and e["key"] == key]
    return max([since_s, *(time_s for time_s in lost_s if time_s <= until_s)])
