"""The trainer of experiments on the tiny hierarchical VAE."""

from torch import Tensor

from autopv.policy import Policy
from autopv.training.execution import Execution
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer


def tiny_trainer(
    images_NCHW: Tensor, *, policy: Policy, steps: float, seed: int, execution: Execution | None = None
) -> Trainer:
    """`hvae` `tiny` with the plan's defaults and the compute of so many image-only steps."""

    def build(policy: Policy, total_flops: float) -> Trainer:
        return Trainer(
            "hvae",
            preset="tiny",
            size_px=images_NCHW.shape[-1],
            channels=images_NCHW.shape[1],
            policy=policy,
            images_NCHW=images_NCHW,
            plan=TrainingPlan(total_flops=total_flops),
            seed=seed,
            execution=execution,
        )

    return build(policy, steps * build(Policy.image_only(), 1e15).flops_per_step)
