"""Admission: what an item will cost, and whether the budget still holds it beside what is promised already."""

import json
from collections import deque
from dataclasses import dataclass, replace

from autopv.search.budget import Budget
from autopv.search.ledger import Ledger
from autopv.search.work import WorkItem

# An item is admitted only if this multiple of its expected cost fits: run times on shared machines vary.
SAFETY = 1.15
_RECENT = 12


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What a device does here: seconds per training FLOP, seconds per measurement, seconds to start one item."""

    s_per_flop: float
    look_s: float
    start_s: float

    def item_s(self, *, flops: float, num_looks: int) -> float:
        """Device-seconds that an item is expected to take."""
        return flops * self.s_per_flop + num_looks * self.look_s + self.start_s


@dataclass(frozen=True, kw_only=True)
class Reserve:
    """Verification runs that the search must leave budget for: how many, and the training FLOPs of each."""

    flops: float
    num_items: int


class Spending:
    """Answers whether one more item fits the budget; learns costs from what the workers report.

    Counted FLOPs leave out rendering, so policies differ in seconds per FLOP: what is known of a policy is used for it,
    and the mean of the recent items for any other.
    """

    def __init__(self, *, budget: Budget, ledger: Ledger, speed: Speed) -> None:
        self._budget, self._ledger, self._speed = budget, ledger, speed
        self._running: dict[str, tuple[float, float]] = {}
        self._s_per_flop: deque[float] = deque(maxlen=_RECENT)
        self._look_s: deque[float] = deque(maxlen=_RECENT)
        self._s_per_flop_of: dict[str, float] = {}

    @property
    def speed(self) -> Speed:
        """The calibrated speed until something was learned, then the mean of the recent items."""
        return Speed(
            s_per_flop=_mean(self._s_per_flop, default=self._speed.s_per_flop),
            look_s=_mean(self._look_s, default=self._speed.look_s),
            start_s=self._speed.start_s,
        )

    def learn(self, item: WorkItem, *, training_s: float, flops: float, evaluation_s: float, num_looks: int) -> None:
        """Takes what an item cost its worker: seconds of training for so many FLOPs, and of measuring."""
        if flops > 0:
            self._s_per_flop.append(training_s / flops)
            self._s_per_flop_of[_name(item)] = training_s / flops
        if num_looks > 0:
            self._look_s.append(evaluation_s / num_looks)

    def cost_s(self, item: WorkItem) -> float:
        """Device-seconds that an item is expected to take."""
        speed = self.speed
        known = self._s_per_flop_of.get(_name(item), speed.s_per_flop)
        return replace(speed, s_per_flop=known).item_s(flops=item.flops, num_looks=len(item.rungs))

    def start(self, key: str, *, cost_s: float) -> None:
        """Counts an item as running at an expected cost."""
        self._running[key] = (self._ledger.clock(), cost_s)

    def end(self, key: str) -> None:
        """Counts an item as over."""
        self._running.pop(key, None)

    def left_s(self) -> float:
        """Device-seconds neither spent nor promised to a running item; infinite without a time budget."""
        if self._budget.device_s is None:
            return float("inf")
        now = self._ledger.clock()
        promised = sum(max(0.0, cost_s - (now - started)) for started, cost_s in self._running.values())
        return self._budget.device_s - self._ledger.spent_s() - promised

    def fits(self, cost_s: float, *, reserve: Reserve | None = None) -> bool:
        """Whether an item (or block of items) of this expected cost can start, beside the reserve where there is one.

        The reserve is worth what its runs would cost at the speed known by now: if the machine turns out slower than
        it was calibrated, the search gives way, not the proof.
        """
        kept_s = 0.0
        if reserve is not None:
            kept_s = reserve.num_items * self.speed.item_s(flops=reserve.flops, num_looks=1)
        return (cost_s + kept_s) * SAFETY <= self.left_s()

    def overdrawn(self) -> bool:
        """Whether the whole budget is spent: whatever still runs must end now."""
        return self._budget.device_s is not None and self._ledger.spent_s() >= self._budget.device_s


def _mean(values: deque[float], *, default: float) -> float:
    return sum(values) / len(values) if values else default


def _name(item: WorkItem) -> str:
    """Equal for items of equal policies."""
    return json.dumps(item.policy, sort_keys=True)
