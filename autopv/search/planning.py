"""What a budget buys on this machine: the length of a trial, how many of them, and how much of a proof."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.data.class_labels import ClassLabels
from autopv.errors import BudgetError
from autopv.metrics.metric import LastFrameMetric
from autopv.policy import Policy
from autopv.search.budget import Budget, rounded_up
from autopv.search.spending import SAFETY, Speed
from autopv.training.fastest import default_execution
from autopv.training.measure import measure_by_class
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer
from autopv.verify.statistics import MIN_BLOCKS

# Trials shorter than this measure noise: the effect of a pseudo video could not be seen at all (first probe).
SHORTEST_TRIAL_STEPS = 400
_LONGEST_DOUBLING = 12
# Verification may take this share of the budget, and the search must still afford this many full trials.
_MOST_FOR_VERIFICATION = 0.5
_FEWEST_TRIALS = 16
# Without an affordable verdict at the shortest length, this share goes into the blocks that can be had.
_SHARE_WITHOUT_VERDICT = 0.4
_WARM_UP_STEPS = 3
_TIMED_S = 1.5
# Building a model and a trainer in a worker that is up; a new worker imports torch and Ray first.
_START_S = 0.5
_WORKER_START_S = 8.0


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """How a budget will be used; times in device-seconds, None without a time budget.

    trial_steps: image-only steps that the compute of one full trial pays for; a longer video gets fewer.
    verdict_needs_s: what buys a verdict on trials of this length. train_needs_s: what buys one on trials as long as the
    training that the search is for; None where that is not stated.
    """

    trial_steps: int
    trial_flops: float
    trial_s: float
    num_trials: int
    num_blocks: int
    reserve_s: float | None
    verdict_needs_s: float
    train_needs_s: float | None = None


def calibrate(
    *,
    model: str,
    preset: str,
    images_NCHW: Tensor,
    metric: LastFrameMetric,
    plan: TrainingPlan,
    device: str,
    classes: ClassLabels | None = None,
) -> tuple[Speed, float]:
    """The speed of this machine on image-only training, and the FLOPs of one of its steps. Takes a few seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = Trainer(
            model,
            preset=preset,
            size_px=images_NCHW.shape[-1],
            channels=images_NCHW.shape[1],
            policy=Policy.image_only(),
            images_NCHW=images_NCHW,
            classes=classes,
            plan=plan,
            seed=0,
            device=device,
            execution=default_execution(device),
        )
        trainer.train_until(_WARM_UP_STEPS / trainer.total_steps)
        started_s, started_steps = time.monotonic(), trainer.steps_done
        trainer.train_until(0.5, should_stop=lambda: time.monotonic() - started_s >= _TIMED_S)
        step_s = (time.monotonic() - started_s) / max(1, trainer.steps_done - started_steps)
        generator = trainer.learner.averaged_model()
        started_s = time.monotonic()
        measure_by_class(generator, metric, class_names=trainer.class_names, seed=0)
        look_s = time.monotonic() - started_s
    finally:
        torch.set_num_threads(threads)
    return Speed(s_per_flop=step_s / trainer.flops_per_step, look_s=look_s, start_s=_START_S), trainer.flops_per_step


def plan_search(
    budget: Budget,
    *,
    speed: Speed,
    flops_per_step: float,
    num_rungs: int,
    num_controls: int,
    num_arms: int,
    num_seeds: int,
    num_workers: int,
    trial_steps: int | None = None,
    train_steps: int | None = None,
    mean_share: float = 1.0,
) -> SearchPlan:
    """How the budget is divided. The longest trial is taken at which a verdict on `num_seeds` seeds can be afforded.

    trial_steps: fixes the length instead. Lengths come from a ladder of doublings, so that alike machines choose alike.
    train_steps: of the training that the search is for: no trial needs to be longer, and one as long needs no
    extrapolation. mean_share: of a full trial's compute, what a trial takes on average.

    Raises:
        BudgetError: the budget does not pay for image-only training and one trial; says which would.
    """

    starts_s = num_workers * _WORKER_START_S
    device_s = 0.0 if budget.device_s is None else budget.device_s - starts_s

    def trial_s(steps: int) -> float:
        return speed.item_s(flops=steps * flops_per_step, num_looks=num_rungs)

    def block_s(steps: int) -> float:
        return num_arms * speed.item_s(flops=steps * flops_per_step, num_looks=1) * SAFETY

    def needs_s(steps: int) -> float:
        blocks_s = MIN_BLOCKS * block_s(steps)
        return blocks_s + max(_FEWEST_TRIALS * trial_s(steps), blocks_s * (1 / _MOST_FOR_VERIFICATION - 1)) + starts_s

    def result(steps: int, *, num_blocks: int) -> SearchPlan:
        reserve_s = None if budget.device_s is None else num_blocks * block_s(steps)
        num_trials = budget.trials or 10**9
        if budget.device_s is not None:
            left_s = device_s - (reserve_s or 0.0)
            fitting = _num_trials(left_s, trial_s(steps), num_controls=num_controls, mean_share=mean_share)
            num_trials = min(num_trials, fitting)
        return SearchPlan(
            trial_steps=steps,
            trial_flops=steps * flops_per_step,
            trial_s=trial_s(steps),
            num_trials=num_trials,
            num_blocks=num_blocks,
            reserve_s=reserve_s,
            verdict_needs_s=needs_s(steps),
            train_needs_s=None if train_steps is None else needs_s(train_steps),
        )

    if budget.device_s is None:
        return result(trial_steps or train_steps or SHORTEST_TRIAL_STEPS, num_blocks=num_seeds)
    ladder = [SHORTEST_TRIAL_STEPS * 2**k for k in range(_LONGEST_DOUBLING)]
    if train_steps is not None:
        ladder = [*(steps for steps in ladder if steps < train_steps), train_steps]
    for steps in [trial_steps] if trial_steps else reversed(ladder):
        verification_s = num_seeds * block_s(steps)
        affordable = verification_s <= _MOST_FOR_VERIFICATION * device_s
        if affordable and device_s - verification_s >= _FEWEST_TRIALS * mean_share * trial_s(steps):
            return result(steps, num_blocks=num_seeds)
    steps = trial_steps or ladder[0]
    if device_s < 2 * trial_s(steps) * SAFETY:
        smallest_s = (num_controls + 2) * trial_s(steps) * SAFETY + starts_s
        raise BudgetError(
            f"--budget {budget} does not pay for image-only training and one trial of {steps} steps, about "
            f"{trial_s(steps):.0f} s each on this machine. The smallest sensible budget, with all controls, is "
            f"{rounded_up(smallest_s, device=budget.device)}; a verdict takes about "
            f"{rounded_up(result(steps, num_blocks=0).verdict_needs_s, device=budget.device)}."
        )
    num_blocks = min(num_seeds, int(_SHARE_WITHOUT_VERDICT * device_s / block_s(steps)))
    return result(steps, num_blocks=num_blocks)


def affordable_runs(missing: Sequence[int], *, item_s: float, left_s: float) -> int:
    """Verification runs to keep budget for: of the blocks that miss so many runs each, the first that can be had.

    They may take as much of what is left as the verification may take of a whole budget.
    """
    runs = 0
    for block in missing:
        if (runs + block) * item_s > _MOST_FOR_VERIFICATION * left_s:
            break
        runs += block
    return runs


def _num_trials(left_s: float, trial_s: float, *, num_controls: int, mean_share: float) -> int:
    """About how many trials fit: controls run to the end, the others take their mean share."""
    full = math.floor(left_s / trial_s)
    if full <= num_controls:
        return full
    return num_controls + math.floor((left_s - num_controls * trial_s) / (trial_s * mean_share))
