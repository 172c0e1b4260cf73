import math

import pytest
import torch

from autopv.errors import TrainingDiverged
from autopv.models.base import LossTerms, VideoGenerator, build_model
from autopv.training.learner import Learner
from autopv.training.plan import TrainingPlan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Line(VideoGenerator):
    """One weight w with loss slope * w: a model whose gradients are known."""

    preset_sizes_px = {"tiny": (8,)}  # noqa: RUF012

    def __init__(self):
        super().__init__(preset="tiny", size_px=8, channels=1, num_frames=1)
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
        self.slope = 1.0

    def loss(self, frames_BTCHW, *, frame_weights_T, labels=None, generator, progress=1.0):
        total = (self.weight * self.slope).sum()
        return LossTerms(total, {"slope": torch.tensor(self.slope)})

    def sample_last_frame(self, num_images, *, labels=None, generator, temperature=1.0):
        return torch.zeros(num_images, 1, 8, 8)

    def sample_frames(self, num_images, *, labels=None, generator, temperature=1.0):
        return torch.zeros(num_images, 1, 1, 8, 8)

    def flops_per_image(self, num_frames):
        return 1.0


def line(**changes):
    return Learner(Line(), plan=TrainingPlan(**{"total_flops": 1e9, "weight_decay": 0.0, **changes}))


def step(learner, *, slope=1.0, rate=0.1):
    learner.model.slope = slope
    frames = torch.zeros(1, 1, 1, 8, 8)
    return learner.step(frames, frame_weights_T=[1.0], progress=0.5, learning_rate=rate, generator=generator())


def test_the_first_step_is_adams():
    learner = line()
    step(learner)
    assert float(learner.model.weight.detach()) == pytest.approx(1 - 0.1, abs=1e-6)


def test_a_gradient_far_above_its_running_norm_is_clipped_to_a_multiple_of_it():
    learner = line(grad_clip=3.0)
    step(learner)
    step(learner, slope=100.0)
    assert float(learner.model.weight.grad) == pytest.approx(3.0)
    step(learner, slope=2.0)
    assert float(learner.model.weight.grad) == pytest.approx(2.0)


def test_growing_gradients_are_not_clipped_for_ever():
    learner = line()
    for _ in range(200):
        step(learner, slope=100.0)
    assert float(learner.model.weight.grad) == pytest.approx(100.0)


def test_the_average_follows_the_weights():
    learner = line(ema=0.5)
    for _ in range(40):
        step(learner, rate=0.0)
    step(learner, rate=1.0)
    moved = 1 - float(learner.model.weight.detach())
    assert moved > 0.1
    assert float(learner.averaged_model().weight) == pytest.approx(1 - moved / 2, rel=1e-5)


@pytest.mark.parametrize("slope", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_step_and_term(slope):
    learner = line()
    step(learner)
    kept = learner.tensors()
    with pytest.raises(TrainingDiverged, match=r"slope is not at step 2"):
        step(learner, slope=slope)
    assert all(torch.equal(kept[name], value) for name, value in learner.tensors().items())


def test_a_gradient_that_is_not_finite_names_its_parameter():
    learner = line()
    learner.model.weight.register_hook(lambda g: g * math.nan)
    with pytest.raises(TrainingDiverged, match="that of weight is not at step 1"):
        step(learner)


def test_its_state_survives_a_round_trip_into_a_fresh_learner():
    plan = TrainingPlan(total_flops=1e9)

    def fresh(seed):
        model = build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=1, seed=seed)
        return Learner(model, plan=plan)

    def train(learner, steps):
        for i in steps:
            frames = torch.rand(2, 1, 1, 8, 8, generator=generator(i))
            learner.step(frames, frame_weights_T=[1.0], progress=0.5, learning_rate=1e-3, generator=generator(i))

    straight, first, second = fresh(0), fresh(0), fresh(1)
    train(straight, range(4))
    train(first, range(2))
    second.restore(first.tensors())
    train(second, range(2, 4))
    expected = straight.tensors()
    assert all(torch.equal(expected[name], value) for name, value in second.tensors().items())
