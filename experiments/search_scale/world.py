"""The world that a virtual driver searches in: its clock, its devices, and trainings that take time and fail by a seed.

What a training measures, how fast it is and whether it fails is drawn from its policy and seed alone, so that one that
is begun again after a crash comes out the same. Checkpoints and the looks in them outlive a crash, as files do.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from autopv.search.work import Look, WorkItem

EPOCH_S = 1_800_000_000.0
"""When a virtual clock starts."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One virtual search; times in virtual seconds.

    trial_s: training of one full trial of image-only on an average device. worker_start_s: the first start of a worker,
    which then takes items one after the other. report_every_s and checkpoint_every_s: as the real worker's.
    speed_spread: the standard deviation of the logarithm of the devices' speeds.
    failed_share: of the items, their loss becomes NaN somewhere. lost_share: of the items, their worker dies once.
    proposal_s and report_s: how long one proposal, and one report of a worker, keeps the driver busy.
    restart_s: until a crashed driver is up again. orphan_s: until its workers notice that it is gone, at most.
    """

    budget: str
    seed: int = 0
    num_devices: int = 64
    num_seeds: int = 3
    trial_s: float = 60.0
    look_s: float = 2.0
    worker_start_s: float = 8.0
    item_start_s: float = 0.5
    report_every_s: float = 2.0
    checkpoint_every_s: float = 20.0
    speed_spread: float = 0.1
    failed_share: float = 0.02
    lost_share: float = 0.02
    proposal_s: float = 0.0
    report_s: float = 0.0
    restart_s: float = 30.0
    orphan_s: float = 3.0


@dataclass(frozen=True)
class Saved:
    """A checkpoint: FLOPs trained, and the looks taken until then."""

    flops: float = 0.0
    looks: tuple[Look, ...] = ()


@dataclass
class World:
    """What outlives a crash of the driver: the time, the checkpoints, and what was really held and trained."""

    setting: Setting
    now_s: float = EPOCH_S
    saved: dict[str, Saved] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    held_s: float = 0.0
    busy_s: float = 0.0
    trained_s: float = 0.0
    num_failed: int = 0

    def clock(self) -> float:
        """Seconds since the epoch, as the ledger wants them."""
        return self.now_s


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one step of a worker comes to: its report, None where the worker is lost, and what it leaves on the disk."""

    ends_s: float
    duration_s: float
    training_s: float = 0.0
    report: Mapping[str, Any] | None = None
    saved: Saved | None = None


class Worker:
    """One device and the worker on it: does one item in steps, as the real worker does."""

    def __init__(self, world: World, *, device: int) -> None:
        self._world, self._setting = world, world.setting
        self._speed = math.exp(self._setting.speed_spread * _normal(self._setting.seed, "device", device))
        self._is_up = False

    def begin(self, item: WorkItem) -> None:
        """Takes an item, from its checkpoint where there is one."""
        setting, name = self._setting, f"{json.dumps(item.policy, sort_keys=True)} {item.seed}"
        saved = self._world.saved.get(item.key, Saved())
        self.item, self._flops, self._looks = item, saved.flops, saved.looks
        self._num_replayed, self._unsaved_s = 0, 0.0
        self._start_s = setting.item_start_s if self._is_up else setting.worker_start_s
        self._is_up = True
        # Counted FLOPs leave out rendering, so policies differ in seconds per FLOP.
        pace = (1 + 0.02 * item.policy["num_frames"]) * math.exp(0.05 * _normal(setting.seed, "pace", name))
        self._s_per_flop = setting.trial_s / self._speed * pace
        self._fails_at = self._lost_at = math.inf
        if _uniform(setting.seed, "fails", name) < setting.failed_share:
            self._fails_at = _uniform(setting.seed, "fails at", name) * item.flops
        if item.key not in self._world.lost and _uniform(setting.seed, "lost", item.key) < setting.lost_share:
            self._lost_at = _uniform(setting.seed, "lost at", item.key) * item.flops

    def step(self) -> Step:
        """The next step, begun now."""
        setting, item, start_s = self._setting, self.item, self._start_s
        self._start_s = 0.0
        if self._num_replayed < len(self._looks):
            self._num_replayed += 1
            return self._step(start_s, look=self._looks[self._num_replayed - 1])
        fraction = item.rungs[len(self._looks)]
        goal, before = fraction * item.flops, self._flops
        self._flops = min(goal, before + setting.report_every_s / self._s_per_flop, self._fails_at, self._lost_at)
        flops_done = max(0.0, self._flops - before)
        training_s = flops_done * self._s_per_flop
        if self._flops >= self._lost_at:
            duration_s = start_s + training_s
            return Step(ends_s=self._world.now_s + duration_s, duration_s=duration_s, training_s=training_s)
        if self._flops >= self._fails_at:
            failure = "the loss is not finite"
            return self._step(start_s, training_s=training_s, flops_done=flops_done, failure=failure)
        self._unsaved_s += training_s
        if self._flops < goal:
            saved = None
            if self._unsaved_s >= setting.checkpoint_every_s:
                saved, self._unsaved_s = Saved(self._flops, self._looks), 0.0
            return self._step(start_s, training_s=training_s, flops_done=flops_done, saved=saved)
        distance = measured(item, fraction=fraction, seed=setting.seed)
        look = Look(fraction=fraction, distance=distance, steps=round(1000 * fraction), flops=self._flops)
        self._looks, self._unsaved_s = (*self._looks, look), 0.0
        self._num_replayed = len(self._looks)
        saved = Saved(self._flops, self._looks)
        return self._step(start_s, training_s=training_s, flops_done=flops_done, look=look, saved=saved, is_new=True)

    def end(self, step: Step) -> None:
        """What a step that has come to its end leaves behind."""
        self._world.busy_s += step.duration_s
        self._world.trained_s += step.training_s
        if step.saved is not None:
            self._world.saved[self.item.key] = step.saved
        if step.report is None:
            self._world.lost.add(self.item.key)
            self._is_up = False

    def _step(
        self,
        start_s: float,
        *,
        training_s: float = 0.0,
        flops_done: float = 0.0,
        look: Look | None = None,
        is_new: bool = False,
        failure: str | None = None,
        saved: Saved | None = None,
    ) -> Step:
        evaluation_s = self._setting.look_s if is_new else 0.0
        report = {
            "fraction": None if look is None else look.fraction,
            "distance": None if look is None else look.distance,
            "failure": failure,
            "progress": self._flops / self.item.flops,
            "steps": round(1000 * self._flops / self.item.flops),
            "flops": self._flops,
            "flops_done": flops_done,
            "training_s": training_s,
            "rendering_s": 0.0,
            "evaluation_s": evaluation_s,
        }
        duration_s = start_s + training_s + evaluation_s
        ends_s = self._world.now_s + duration_s
        return Step(ends_s=ends_s, duration_s=duration_s, training_s=training_s, report=report, saved=saved)


def measured(item: WorkItem, *, fraction: float, seed: int) -> float:
    """The distance of a made-up landscape: each op has its worth, length and weight their best, looks their noise."""
    policy = item.policy
    distance = 300.0
    for place, layer in enumerate(policy["layers"]):
        worth = 60 * _uniform(seed, "worth", layer["op"]) - 25
        (magnitude,) = layer["magnitude"].values()
        best = 2 * _normal(seed, "best", layer["op"]) - 2
        distance -= 0.6**place * (worth - 4 * abs(math.log(magnitude) - best))
    if policy["layers"]:
        distance += 10 * abs(math.log(policy["num_frames"] / 4))
        distance += 8 * abs(math.log10(policy["frame_loss_weight"] / 0.1))
    name = json.dumps(policy, sort_keys=True)
    ahead = 80 * (1 - fraction) * (0.5 + _uniform(seed, "slope", name))
    return distance + ahead + 8 * _normal(seed, "noise", name, item.seed, fraction, item.split)


def _uniform(*names: object) -> float:
    """A number in (0, 1), always the same for the same names."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48


def _normal(*names: object) -> float:
    return NormalDist().inv_cdf(_uniform(*names))
