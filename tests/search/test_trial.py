from dataclasses import replace

import torch

from autopv.policy import Layer, Policy
from autopv.search.run_folder import RunFolder
from autopv.search.trial import Trial, WorkerInputs, item_to_config
from autopv.search.work import WorkItem
from autopv.training.plan import TrainingPlan


def test_a_policy_with_more_frames_than_the_model_holds_fails_with_the_reason_and_the_worker_lives_on(tmp_path):
    layer = Layer(op="gaussian_noise", magnitude=0.2, frames=(1, 7))
    policy = Policy(num_frames=8, layers=(layer,))
    item = WorkItem(
        key="search-0001", label="x", policy=policy.to_dict(), seed=0, rungs=(1.0,), split="search", flops=1e10
    )
    inputs = WorkerInputs(
        run_folder=str(RunFolder.create(tmp_path / "run").path),
        train_images_NCHW=torch.zeros(8, 1, 8, 8, dtype=torch.uint8),
        train_masks_NHW=None,
        model="hvae",
        preset="tiny",
        plan=TrainingPlan(total_flops=1e10, batch_size=4),
        device="cpu",
    )
    trial = object.__new__(Trial)
    trial.setup(item_to_config(item), inputs=inputs, silence_s=60.0)
    report = trial.step()
    assert "num_frames <= 6" in report["failure"]
    assert (report["fraction"], report["steps"]) == (None, 0)
    assert trial.reset_config(item_to_config(replace(item, policy=Policy.image_only().to_dict())))
    assert trial._failure is None
