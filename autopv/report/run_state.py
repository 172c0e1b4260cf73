"""What is known of a job from its events, for whoever shows it; prints nothing."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from autopv.search.budget import Budget
from autopv.verify.blocks import Distance
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.verdict import Evidence, weigh

# Rates are taken over this long, and are not stated from less than that.
_RECENT_S = 180.0
_LEAST_S = 10.0
_RECENT_ENDS = 24
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


@dataclass
class Item:
    """One trial or verification run.

    status: running, waiting (interrupted; to be gone on with), complete, stopped, failed or unpaid.
    looks: share of compute -> distance. progress: share of its compute behind it.
    """

    key: str
    label: str
    phase: str
    seed: int | None = None
    status: str = "running"
    progress: float = 0.0
    looks: dict[float, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def last_rung(self) -> float:
        """The rung where it was measured last; 0 before its first."""
        return max(self.looks, default=0.0)

    @property
    def distance(self) -> float | None:
        """The distance at full compute, or None."""
        return self.looks.get(1.0)


class RunState:
    """A job as its events tell it. `take` them in order; those of earlier launches too, if the job was resumed.

    phase: preparing, calibrating, search, verify or concluded; item_phase: the last of search and verify.
    """

    def __init__(self) -> None:
        self.phase = "preparing"
        self.item_phase = "search"
        self.budget: Budget | None = None
        self.plan: Mapping[str, Any] = {}
        self.num_workers: int | None = None
        self.reserve_s = 0.0
        self.num_blocks: int | None = None
        self.arms: tuple[str, ...] = ()
        self.floors: dict[str, float] = {}
        self.items: dict[str, Item] = {}
        self.spent_s = 0.0
        self.workers_lost: Counter[str] = Counter()
        self.num_breakdowns = 0
        self.conclusion: str | None = None
        self._spent_at: deque[tuple[float, float]] = deque()
        self._ended_at: deque[float] = deque(maxlen=_RECENT_ENDS)

    def take(self, event: Mapping[str, Any]) -> None:
        """Learns from one event; unknown ones are passed over."""
        if "spent_s" in event:
            self._learn_spending(event)
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is not None:
            handler(event)

    def of_phase(self, phase: str, *, status: str | None = None) -> list[Item]:
        """Trials (`search`) or verification runs (`verify`), of one status where given."""
        return [item for item in self.items.values() if item.phase == phase and status in (None, item.status)]

    def counts(self, phase: str) -> Counter[str]:
        """How many trials or runs have each status."""
        return Counter(item.status for item in self.of_phase(phase))

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of compute at which trials are measured, the last one being all of it."""
        planned = self.plan.get("rungs") or (1.0,)
        seen = {fraction for item in self.of_phase("search") for fraction in item.looks}
        return tuple(sorted({*planned, *seen}))

    @property
    def left_s(self) -> float | None:
        """Device-seconds of the budget that are left; None without a time budget."""
        if self.budget is None or self.budget.device_s is None:
            return None
        return max(0.0, self.budget.device_s - self.spent_s)

    @property
    def num_planned(self) -> int | None:
        """Trials or verification runs of this phase, where their number is fixed and no time limit cuts it."""
        if self.budget is None:
            return None
        if self.item_phase == "search":
            return self.budget.trials
        fixed = self.num_blocks if self.budget.device_s is None else None
        return None if fixed is None else fixed * len(self.arms)

    @property
    def num_ended(self) -> int:
        """Trials or verification runs of this phase that will not be gone on with."""
        return sum(item.status not in ("running", "waiting") for item in self.of_phase(self.item_phase))

    @property
    def eta_s(self) -> float | None:
        """Seconds until the budget is spent, or this phase's fixed number of items has ended, at the recent rates."""
        etas = []
        if self.left_s is not None and (rate := self._spending_rate()):
            etas.append(self.left_s / rate)
        if self.num_planned is not None and len(self._ended_at) > 1 and self._ended_at[-1] > self._ended_at[0]:
            rate = (len(self._ended_at) - 1) / (self._ended_at[-1] - self._ended_at[0])
            etas.append(max(0, self.num_planned - self.num_ended) / rate)
        return min(etas, default=None)

    def best(self, phase: str) -> Item | None:
        """The trial or run with the least distance at full compute."""
        return min(
            (item for item in self.of_phase(phase) if item.distance is not None),
            key=lambda item: item.distance or 0.0,
            default=None,
        )

    def reference(self) -> Item | None:
        """Image-only training's own trial, once it is measured at full compute."""
        trials = self.of_phase("search")
        return next((t for t in trials if t.label == IMAGE_ONLY and t.distance is not None), None)

    def evidence(self) -> Evidence | None:
        """What the complete blocks of the verification show so far, weighed as the verdict will weigh them."""
        if "verify" not in self.floors:
            return None
        distances = [
            Distance(arm=item.label, seed=item.seed, distance=item.distance if item.status == "complete" else None)
            for item in self.of_phase("verify")
            if item.status in ("complete", "failed") and item.seed is not None
        ]
        return weigh(self.arms, distances, floor=self.floors["verify"])

    def failures(self) -> Counter[str]:
        """Causes of failure and how often each struck. Numbers inside a message do not tell causes apart."""
        failures = (item.failure or "unknown" for item in self.items.values() if item.status == "failed")
        return Counter(_NUMBER.sub("#", failure) for failure in failures)

    def _spending_rate(self) -> float | None:
        """Device-seconds per second of late."""
        if len(self._spent_at) < 2:
            return None
        (start_s, start_spent_s), (end_s, end_spent_s) = self._spent_at[0], self._spent_at[-1]
        return (end_spent_s - start_spent_s) / (end_s - start_s) if end_s - start_s >= _LEAST_S else None

    def _learn_spending(self, event: Mapping[str, Any]) -> None:
        self.spent_s = event["spent_s"]
        now_s = event.get("time")
        if now_s is not None:
            self._spent_at.append((now_s, self.spent_s))
            while now_s - self._spent_at[0][0] > _RECENT_S:
                self._spent_at.popleft()

    def _on_calibrating(self, _: Mapping[str, Any]) -> None:
        self.phase = "calibrating"

    def _on_planned(self, event: Mapping[str, Any]) -> None:
        self.plan, self.budget = event, Budget.parse(event["budget"])

    def _on_launched(self, event: Mapping[str, Any]) -> None:
        self.budget = Budget.parse(event["budget"])
        self.num_workers = event["num_workers"]
        self.conclusion = None
        self._spent_at.clear()
        self._ended_at.clear()
        self._interrupt(self.items.values())

    def _on_phase(self, event: Mapping[str, Any]) -> None:
        if event["phase"] != self.phase:
            self._ended_at.clear()
        self.phase = self.item_phase = event["phase"]
        self.num_blocks, self.reserve_s = event["num_blocks"], event["reserve_s"]
        self.floors[self.phase] = event["floor"]
        if self.phase == "verify":
            self.arms = tuple(event["arms"])
            for item in self.of_phase("search", status="waiting"):
                item.status = "unpaid"  # the search gives them up without a word

    def _on_item_started(self, event: Mapping[str, Any]) -> None:
        item = self._item(event)
        item.status, item.failure, item.seed = "running", None, event["seed"]
        earlier = self.items.pop(event["continues"], None) if event["continues"] else None
        if earlier is not None:
            item.looks, item.progress = earlier.looks, earlier.progress

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self._item(event).progress = event["progress"]

    def _on_look(self, event: Mapping[str, Any]) -> None:
        item = self._item(event)
        item.looks[event["fraction"]] = event["distance"]
        item.progress = max(item.progress, event["fraction"])

    def _on_item_ended(self, event: Mapping[str, Any]) -> None:
        item = self._item(event)
        item.status = event["status"]
        item.failure = event["failure"]
        if "time" in event:
            self._ended_at.append(event["time"])

    def _on_worker_lost(self, event: Mapping[str, Any]) -> None:
        self.workers_lost[_NUMBER.sub("#", event["reason"])] += 1
        self._interrupt([self._item(event)])

    def _on_ray_failed(self, _: Mapping[str, Any]) -> None:
        self.num_breakdowns += 1
        self._interrupt(self.items.values())

    def _on_concluded(self, event: Mapping[str, Any]) -> None:
        self.phase, self.conclusion = "concluded", event["conclusion"]

    def _item(self, event: Mapping[str, Any]) -> Item:
        """The item an event is about, which may be the first that is heard of it."""
        key = event["key"]
        if key not in self.items:
            self.items[key] = Item(key=key, label=event["label"], phase=event.get("phase", self.item_phase))
        return self.items[key]

    @staticmethod
    def _interrupt(items: Iterable[Item]) -> None:
        for item in items:
            if item.status == "running":
                item.status = "waiting"
