"""Full training: one policy, one model, trained to its end with checkpoints, then measured once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from autopv.errors import CheckpointError
from autopv.policy import Policy
from autopv.training.checkpoint import FILE_NAME, resume_checkpoint, save_checkpoint
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer, TrainingProgress

CHECKPOINT_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Setup):
    """A full training; `steps` is how many image-only steps its compute pays for (a longer video gets fewer)."""

    policy: Policy
    out: Path
    steps: int
    device: str = "cpu"
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a full training came to: its last-frame distance on the search split, and the floor there."""

    metric: str
    distance: float
    floor: float
    num_images: int
    steps: int
    took_s: float


def train_fully(request: TrainRequest, *, on_progress: Callable[[TrainingProgress], None] | None = None) -> TrainResult:
    """Trains into `request.out`, saving as it goes; resumes bit for bit where `request.resume` says so.

    Raises:
        InputError: the request cannot be met; nothing has been written then.
        CheckpointError: the folder holds something already, or nothing to resume.
        TrainingDiverged: a loss or gradient is no longer finite; the last checkpoint stands.
        KeyboardInterrupt: the user stopped it; the last checkpoint stands.
    """
    holds_checkpoint = (request.out / FILE_NAME).exists()
    if not request.resume and request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        hint = "add --resume to go on with the training in it, or " if holds_checkpoint else ""
        raise CheckpointError(
            f"--out {request.out} is not empty and nothing is overwritten: {hint}choose another folder."
        )
    if request.resume and not holds_checkpoint:
        raise CheckpointError(f"--resume: {request.out} holds no {FILE_NAME}; leave --resume out to start there.")
    torch.set_num_threads(1)
    material = Material.load(request)
    metric = material.metric("search")
    trainer = _trainer(request, images_NCHW=material.images("train"), masks_NHW=material.masks("train"))
    started_s = time.monotonic()
    if request.resume:
        resume_checkpoint(trainer, request.out)
    else:
        save_checkpoint(trainer, request.out)  # whenever it is interrupted, there is something to resume
    model = None
    while model is None:
        model = trainer.annealed_look(1.0, on_progress=on_progress, should_stop=_timer(CHECKPOINT_EVERY_S))
        save_checkpoint(trainer, request.out)
    request.policy.save(request.out / "policy.json", overwrite=True)
    return TrainResult(
        metric=metric.identity.name,
        distance=measure(model, metric, seed=request.seed),
        floor=material.floor("search"),
        num_images=metric.identity.num_images,
        steps=trainer.steps_done,
        took_s=time.monotonic() - started_s,
    )


def _timer(seconds: float) -> Callable[[], bool]:
    """A question that is answered with yes once the time is up."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() >= end_s


def _trainer(request: TrainRequest, *, images_NCHW: torch.Tensor, masks_NHW: torch.Tensor | None) -> Trainer:
    def build(policy: Policy, plan: TrainingPlan) -> Trainer:
        return Trainer(
            request.model,
            preset=request.preset,
            size_px=images_NCHW.shape[-1],
            channels=images_NCHW.shape[1],
            policy=policy,
            images_NCHW=images_NCHW,
            masks_NHW=masks_NHW,
            plan=plan,
            seed=request.seed,
            device=request.device,
        )

    flops_per_step = build(Policy.image_only(), TrainingPlan(total_flops=1e15)).flops_per_step
    return build(request.policy, TrainingPlan(total_flops=request.steps * flops_per_step))
