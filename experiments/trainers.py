"""The trainers and the count of sampling that experiments share."""

import copy
import functools
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autopv.models.base import VideoGenerator
from autopv.policy import Policy
from autopv.training.execution import Execution
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

NUM_SAMPLED = 8


def new_trainer(
    images_NCHW: Tensor,
    *,
    model: str = "hvae",
    preset: str = "tiny",
    policy: Policy,
    plan: TrainingPlan,
    seed: int,
    execution: Execution | None = None,
) -> Trainer:
    """On these images, at their size and number of channels."""
    return Trainer(
        model,
        preset=preset,
        size_px=images_NCHW.shape[-1],
        channels=images_NCHW.shape[1],
        policy=policy,
        images_NCHW=images_NCHW,
        plan=plan,
        seed=seed,
        execution=execution,
    )


def trainer_of_steps(
    images_NCHW: Tensor,
    *,
    model: str = "hvae",
    preset: str = "tiny",
    policy: Policy,
    steps: float,
    seed: int,
    plan: TrainingPlan | None = None,
    execution: Execution | None = None,
) -> Trainer:
    """With the compute of so many image-only steps; the plan's other numbers are the family's unless given."""
    plan = plan or TrainingPlan.asked(model=model)

    build = functools.partial(new_trainer, images_NCHW, model=model, preset=preset, seed=seed, execution=execution)
    total_flops = steps * build(policy=Policy.image_only(), plan=plan).flops_per_step
    return build(policy=policy, plan=replace(plan, total_flops=total_flops))


def sampling_flops(model: VideoGenerator) -> float:
    """Of one last frame, counted by torch."""
    # The counter cannot follow weights that could be learnt through sampling, which keeps no gradients.
    model = copy.deepcopy(model).requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model.sample_last_frame(NUM_SAMPLED, generator=torch.Generator().manual_seed(0))
    return counter.get_total_flops() / NUM_SAMPLED
