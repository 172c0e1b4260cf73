import pytest
from training_cases import BATCH, SIZE_PX, flops_of, noise_policy, random_images

from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer


@pytest.fixture
def make_trainer():
    """A trainer of the smallest model for so many steps; every part can be replaced."""

    def make(*, steps=20, policy=None, images=None, seed=0, masks=None, plan_changes=None):
        policy = noise_policy() if policy is None else policy
        length = {"total_flops": flops_of(steps=steps, num_frames=policy.num_frames), "batch_size": BATCH}
        plan = TrainingPlan(**{**length, **(plan_changes or {})})
        return Trainer(
            "hvae",
            preset="tiny",
            size_px=SIZE_PX,
            channels=1,
            policy=policy,
            images_NCHW=random_images() if images is None else images,
            masks_NHW=masks,
            plan=plan,
            seed=seed,
        )

    return make
