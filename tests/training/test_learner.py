import math

import pytest
import torch

from autopv.errors import TrainingDiverged
from autopv.models.base import VideoGenerator, build_model
from autopv.training.execution import Execution
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
        self.fits, self.batches = 1000, []

    def draw_noise(self, num_images, *, generator):
        return {}

    def loss_terms(self, frames_BTCHW, *, frame_weights_T, noise, kl_weight):
        self.batches.append(len(frames_BTCHW))
        if len(frames_BTCHW) > self.fits:
            raise torch.OutOfMemoryError(f"{len(frames_BTCHW)} images")
        return (self.weight * self.slope).sum(), {"slope": torch.tensor(self.slope)}

    def sample_last_frame(self, num_images, *, labels=None, generator, temperature=1.0):
        return torch.zeros(num_images, 1, 8, 8)

    def sample_frames(self, num_images, *, labels=None, generator, temperature=1.0):
        return torch.zeros(num_images, 1, 1, 8, 8)

    def flops(self):
        return 1.0


def line(**changes):
    return Learner(Line(), plan=TrainingPlan(**{"total_flops": 1e9, "weight_decay": 0.0, **changes}))


def step(learner, *, slope=1.0, rate=0.1, num_images=1):
    learner.model.slope = slope
    frames = torch.zeros(num_images, 1, 1, 8, 8)
    return learner.step(frames, frame_weights_T=[1.0], kl_weight=1.0, learning_rate=rate, generator=generator())


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


def test_a_step_whose_gradient_is_out_of_the_ordinary_is_skipped_and_training_goes_on():
    learner = line(grad_skip=10.0)
    step(learner)
    kept = {name: value for name, value in learner.tensors().items() if name != "typical_norm"}
    step(learner, slope=11.0)
    after = learner.tensors()
    changed = {name for name, value in kept.items() if not torch.equal(after[name], value)}
    assert changed == {"num_steps", "num_skipped"}
    assert (learner.num_steps, learner.num_skipped) == (2, 1)
    step(learner, slope=9.0)
    assert learner.num_skipped == 1
    assert not torch.equal(learner.tensors()["model/weight"], after["model/weight"])


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_stays_so():
    learner = line()
    learner.model.fits = 3
    for _ in range(2):
        step(learner, num_images=10)
    assert learner.model.batches == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1]
    assert float(learner.model.weight.grad) == pytest.approx(1.0)


def test_a_single_image_that_does_not_fit_is_the_callers_to_know():
    learner = line()
    learner.model.fits = 0
    with pytest.raises(torch.OutOfMemoryError):
        step(learner, num_images=4)
    assert learner.model.batches == [4, 2, 1]


@pytest.mark.slow
def test_a_batch_in_parts_makes_the_same_step_up_to_rounding():
    def after_two_steps(num_parts):
        model = build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=2, seed=0)
        learner = Learner(model, plan=TrainingPlan(total_flops=1e9), execution=Execution(num_parts=num_parts))
        frames = torch.rand(7, 2, 1, 8, 8, generator=generator())
        keywords = {"frame_weights_T": [0.1, 1.0], "kl_weight": 1.0, "learning_rate": 1e-3}
        losses = [float(learner.step(frames, **keywords, generator=generator(i)).total_loss) for i in range(2)]
        return losses

    assert after_two_steps(3) == pytest.approx(after_two_steps(1), rel=1e-4)


@pytest.mark.slow
def test_bfloat16_learns_alike():
    def losses(precision):
        model = build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=2, seed=0)
        learner = Learner(model, plan=TrainingPlan(total_flops=1e9), execution=Execution(precision=precision))
        frames = torch.rand(8, 2, 1, 8, 8, generator=generator())
        keywords = {"frame_weights_T": [0.1, 1.0], "kl_weight": 1.0, "learning_rate": 3e-3}
        found = [float(learner.step(frames, **keywords, generator=generator(i)).total_loss) for i in range(30)]
        assert all(p.dtype == torch.float32 for p in model.parameters())
        return found

    exact, rounded = losses("float32"), losses("bfloat16")
    assert exact != rounded
    assert rounded[-1] == pytest.approx(exact[-1], abs=0.05)
    assert rounded[-1] < rounded[0] - 0.1


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
            learner.step(frames, frame_weights_T=[1.0], kl_weight=0.5, learning_rate=1e-3, generator=generator(i))

    straight, first, second = fresh(0), fresh(0), fresh(1)
    train(straight, range(4))
    train(first, range(2))
    second.restore(first.tensors())
    train(second, range(2, 4))
    expected = straight.tensors()
    assert all(torch.equal(expected[name], value) for name, value in second.tensors().items())
