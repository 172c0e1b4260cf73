"""Admission: what an item will cost, and whether the budget still holds it beside what is promised already."""

import json
from collections import deque
from dataclasses import dataclass

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


@dataclass
class _Running:
    """An item under way. flops: the position of its training; device_s and flops_done: what that cost this launch."""

    item: WorkItem
    flops: float = 0.0
    num_looks: int = 0
    device_s: float = 0.0
    flops_done: float = 0.0


class Spending:
    """Answers whether one more item, or the rest of one, fits the budget; learns costs from what the workers report.

    Counted FLOPs leave out rendering, so policies differ in seconds per FLOP: what is known of a policy is used for it,
    and the mean of the recent items for any other.
    """

    def __init__(self, *, budget: Budget, ledger: Ledger, speed: Speed) -> None:
        self._budget, self._ledger, self._speed = budget, ledger, speed
        self._running: dict[str, _Running] = {}
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
        """Takes what an item cost, in device-seconds: training (with rendering) for so many FLOPs, and measuring."""
        if flops > 0:
            self._s_per_flop.append(training_s / flops)
            self._s_per_flop_of[_name(item)] = training_s / flops
        if num_looks > 0:
            self._look_s.append(evaluation_s / num_looks)

    def cost_s(self, item: WorkItem) -> float:
        """Device-seconds that an item is expected to take."""
        return self._rest_s(_Running(item)) + self.speed.start_s

    def start(self, item: WorkItem) -> None:
        """Counts an item as running: what it is expected to take yet is promised to it."""
        self._running[item.key] = _Running(item)

    def follow(self, key: str, *, flops: float, num_looks: int, device_s: float, flops_done: float) -> None:
        """Takes how far a running item is (FLOPs, looks), and what its last stretch of so many FLOPs cost."""
        running = self._running.get(key)
        if running is not None:
            running.flops, running.num_looks = flops, num_looks
            running.device_s += device_s
            running.flops_done += flops_done

    def end(self, key: str) -> None:
        """Counts an item as over."""
        self._running.pop(key, None)

    def left_s(self, *, but: str | None = None) -> float:
        """Device-seconds neither spent nor promised to a running item (other than `but`); infinite without a limit."""
        if self._budget.device_s is None:
            return float("inf")
        promised_s = sum(self._rest_s(running) for key, running in self._running.items() if key != but)
        return self._budget.device_s - self._ledger.spent_s() - promised_s

    def fits(self, cost_s: float, *, reserve: Reserve | None = None, margin: float = SAFETY) -> bool:
        """Whether an item (or block of items) of this expected cost can start, beside the reserve where there is one.

        The reserve is worth what its runs would cost at the speed known by now: if the machine turns out slower than
        it was calibrated, the search gives way, not the proof.
        """
        return (cost_s + self._kept_s(reserve)) * margin <= self.left_s()

    def fits_rest(self, key: str, *, reserve: Reserve | None = None) -> bool:
        """Whether the rest of a running item still fits, now that it is known what it costs.

        Without the margin of `fits`: what was begun is given up only when it is known not to fit.
        """
        running = self._running.get(key)
        return running is None or self._rest_s(running) + self._kept_s(reserve) <= self.left_s(but=key)

    def share_spent(self, *, reserve: Reserve | None = None) -> float:
        """Of the budget beside the reserve, the share that is spent or promised; 0 without a limit."""
        if self._budget.device_s is None:
            return 0.0
        usable_s = self._budget.device_s - self._kept_s(reserve)
        return 1.0 if usable_s <= 0 else (self._budget.device_s - self.left_s()) / usable_s

    def overdrawn(self) -> bool:
        """Whether the whole budget is spent: whatever still runs must end now."""
        return self._budget.device_s is not None and self._ledger.spent_s() >= self._budget.device_s

    def _kept_s(self, reserve: Reserve | None) -> float:
        return 0.0 if reserve is None else reserve.num_items * self.speed.item_s(flops=reserve.flops, num_looks=1)

    def _rest_s(self, running: _Running) -> float:
        """What is left of an item's training and looks, at its own speed where that is known."""
        item, speed = running.item, self.speed
        s_per_flop = self._s_per_flop_of.get(_name(item), speed.s_per_flop)
        if running.flops_done > 0:
            s_per_flop = running.device_s / running.flops_done
        num_looks = len(item.rungs) - running.num_looks
        return max(0.0, item.flops - running.flops) * s_per_flop + num_looks * speed.look_s


def _mean(values: deque[float], *, default: float) -> float:
    return sum(values) / len(values) if values else default


def _name(item: WorkItem) -> str:
    """Equal for items of equal policies."""
    return json.dumps(item.policy, sort_keys=True)
