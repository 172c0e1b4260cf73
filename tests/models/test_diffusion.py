"""The diffusion model: EDM's equations, its samplers, and what more frames cost."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autopv.errors import ModelError
from autopv.models import diffusion
from autopv.models.base import build_model
from autopv.models.diffusion import DATA_SD, Diffusion
from autopv.models.sampling import Sampling
from autopv.testing.model_suite import ModelSuite
from autopv.training.learner import Learner
from autopv.training.plan import TrainingPlan


class TestDiffusion(ModelSuite):
    model = "diffusion"
    num_learning_steps = 130
    num_class_steps = 50


class TestDiffusionInColour(ModelSuite):
    model = "diffusion"
    channels = 3
    num_learning_steps = 130
    num_class_steps = 50


class TestDiffusionJoint(ModelSuite):
    model = "diffusion"
    preset = "tiny-joint"
    num_learning_steps = 130
    num_class_steps = 50


def build(*, num_frames: int = 1, size_px: int = 16, preset: str = "tiny", channels: int = 1) -> Diffusion:
    model = build_model("diffusion", preset=preset, size_px=size_px, channels=channels, num_frames=num_frames, seed=0)
    assert isinstance(model, Diffusion)
    return model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Ideal(torch.nn.Module):
    """In a denoiser's place: what the network would have to say for images whose channels are N(mean, sd^2)."""

    def __init__(self, *, mean: float, sd: float) -> None:
        super().__init__()
        self.mean, self.sd = mean, sd
        self.here = torch.nn.Parameter(torch.zeros(()))

    def forward(self, scaled: Tensor, quarter_log_level: Tensor) -> Tensor:
        level = (4 * quarter_log_level).exp()[:, None, None, None]
        total = (level.square() + DATA_SD**2).sqrt()
        noisy = scaled * total
        clean = (noisy * self.sd**2 + self.mean * level.square()) / (self.sd**2 + level.square())
        return (clean - DATA_SD**2 / total.square() * noisy) / (level * DATA_SD / total)


@pytest.mark.parametrize("churn", [0.0, 20.0])
def test_with_the_ideal_denoiser_it_samples_the_distribution(churn: float) -> None:
    model = build(num_frames=2, preset="tiny-joint")
    model.denoiser = Ideal(mean=0.2, sd=0.1)  # type: ignore[assignment]
    model.sampling = Sampling(num_steps=40, churn=churn)
    frames = model.sample_frames(400, generator=generator()) * 2 - 1
    assert float(frames.mean()) == pytest.approx(0.2, abs=0.005)
    assert float(frames.std()) == pytest.approx(0.1, rel=0.05)
    pixels = frames[:, 0, 0, 0, 0], frames[:, 1, 0, 0, 0]
    assert abs(float(torch.corrcoef(torch.stack(pixels))[0, 1])) < 0.2, "independent channels stay so"


def test_the_loss_of_the_ideal_denoiser_is_what_it_must_be() -> None:
    """E[(D - x)^2] of the ideal denoiser is s^2 v / (s^2 + v) for values of variance v at level s."""
    model = build()
    variance = 0.1**2
    model.denoiser = Ideal(mean=0.2, sd=0.1)  # type: ignore[assignment]
    images = (0.2 + 0.1 * torch.randn(2000, 1, 1, 16, 16, generator=generator(1)) + 1) / 2
    noise = model.draw_noise(2000, generator=generator(2))
    measured = model.loss_terms(images, frame_weights_T=torch.ones(1), noise=noise, kl_weight=torch.ones(()))[0]
    level = torch.exp(diffusion.LOG_LEVEL_MEAN + diffusion.LOG_LEVEL_SD * noise["level"])
    importance = (level.square() + DATA_SD**2) / (level * DATA_SD).square()
    expected = (importance * level.square() * variance / (level.square() + variance)).mean()
    assert float(measured) == pytest.approx(float(expected), rel=0.01)


def test_an_untrained_network_costs_about_one_whatever_the_noise() -> None:
    """EDM's weights make the loss of a network that says nothing 1 at every level, for data of their variance."""
    model = build()
    images = ((DATA_SD * torch.randn(500, 1, 1, 16, 16, generator=generator(1))) + 1) / 2
    for level in (-2.0, 0.0, 2.0):
        noise = {**model.draw_noise(500, generator=generator(2)), "level": torch.full((500,), level)}
        loss = model.loss_terms(images, frame_weights_T=torch.ones(1), noise=noise, kl_weight=torch.ones(()))[0]
        assert float(loss.detach()) == pytest.approx(1.0, rel=0.05)


def test_what_is_told_of_pseudo_frames_reaches_no_image() -> None:
    """With one network for all of it, sampling an image looks at nothing that was said of the other frames."""
    model = build(num_frames=3)
    leave = model.denoiser.leave
    torch.nn.init.normal_(leave.weight, std=0.1, generator=generator(1))
    before = model.sample_frames(4, generator=generator())
    with torch.no_grad():
        leave.weight[:2] += 0.1
    after = model.sample_frames(4, generator=generator())
    assert torch.equal(before[:, -1], after[:, -1])
    assert not torch.equal(before[:, 0], after[:, 0])
    assert torch.equal(model.sample_last_frame(4, generator=generator()), after[:, -1])


def test_a_frame_that_cannot_be_told_counts_alike_at_every_noise_level() -> None:
    """Its error stays where the image's vanishes with the noise, so it must not count as the image's there."""
    model = build(num_frames=2)
    frames = ((DATA_SD * torch.randn(500, 2, 1, 16, 16, generator=generator(1))) + 1) / 2
    for level in (-4.0, 0.0, 2.0):
        noise = {**model.draw_noise(500, generator=generator(2)), "level": torch.full((500,), level)}
        weights = torch.tensor([1.0, 0.0])
        loss = model.loss_terms(frames, frame_weights_T=weights, noise=noise, kl_weight=torch.ones(()))[0]
        assert float(loss.detach()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.slow
def test_frames_are_told_from_the_image() -> None:
    """The first frame is the image's negative: of images of which half are bright it is told after some steps."""
    model = build(num_frames=2, size_px=8)
    learner = Learner(model, plan=TrainingPlan(total_flops=1e9))
    draw = generator(3)
    for step in range(200):
        bright = torch.rand(32, 1, 1, 1, 1, generator=draw) < 0.5
        image = torch.where(bright, 0.8, 0.2).expand(-1, -1, -1, 8, 8)
        frames = torch.cat([1 - image, image], 1)
        learner.step(frames, frame_weights_T=[1.0, 1.0], kl_weight=1.0, learning_rate=3e-3, generator=generator(step))
    told = learner.averaged_model().sample_frames(100, generator=generator()).mean((2, 3, 4))
    assert float((told[:, 0] + told[:, 1] - 1).abs().mean()) < 0.1
    assert float(told[:, 1].std()) > 0.2


def test_the_noise_levels_of_a_batch_cover_the_normal_distribution() -> None:
    levels = build().draw_noise(64, generator=generator())["level"].sort().values
    quantiles = torch.special.ndtri((torch.arange(64) + 0.5) / 64)
    assert float((levels - quantiles)[2:-2].abs().max()) < 0.3
    assert not torch.equal(build().draw_noise(64, generator=generator(1))["level"].sort().values, levels)


def test_each_frame_counts_at_its_weight_and_the_last_at_1() -> None:
    model = build(num_frames=3)
    frames = torch.rand(4, 3, 1, 16, 16, generator=generator())
    loss = model.loss(frames, frame_weights_T=[0.5, 0.25, 1.0], generator=generator())
    errors = [float(loss.terms[f"error_{t}"]) for t in (1, 2, 3)]
    assert float(loss.total_loss.detach()) == pytest.approx(0.5 * errors[0] + 0.25 * errors[1] + errors[2], rel=1e-5)


def test_more_frames_cost_little_to_sample() -> None:
    """The mission's claim, family by family: here the wider last convolution, and where frames are joint the first."""
    for preset, size_px in (("tiny", 16), ("small", 64), ("base", 128)):
        for kind, most in (("", 1.12), ("-joint", 1.25)):
            with torch.device("meta"):
                model = build(preset=preset + kind, size_px=size_px, channels=3)
            assert model.flops_per_image(8) < most * model.flops_per_image(1)


def test_its_sampler_can_be_set_and_refuses_what_makes_no_sense() -> None:
    model = build()
    model.sampling = replace(model.sampling, num_steps=3)
    few = model.sample_last_frame(2, generator=generator())
    model.sampling = replace(model.sampling, num_steps=4)
    assert not torch.equal(few, model.sample_last_frame(2, generator=generator()))
    for wrong in ({"num_steps": 0}, {"num_steps": 5, "churn": -1.0}, {"num_steps": 5, "churn": math.inf}):
        with pytest.raises(ModelError):
            Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_kinds_of_images_come_as_often_as_in_the_data() -> None:
    """Dark images thrice as often as bright ones; 8 px, a few hundred steps."""
    model = build(size_px=8)
    learner = Learner(model, plan=TrainingPlan(total_flops=1e9))
    draw = generator(3)
    for step in range(320):
        bright = torch.rand(32, 1, 1, 1, 1, generator=draw) < 0.25
        frames = torch.where(bright, 0.8, 0.2) + 0.05 * torch.rand(32, 1, 1, 8, 8, generator=draw)
        rate = 6e-3 * min(1.0, (320 - step) / 120)
        learner.step(frames, frame_weights_T=[1.0], kl_weight=1.0, learning_rate=rate, generator=generator(step))
    means = learner.averaged_model().sample_last_frame(400, generator=generator()).mean((1, 2, 3))
    bright_share = float((means > 0.65).float().mean())
    dark_share = float((means < 0.4).float().mean())
    assert bright_share + dark_share > 0.9
    assert 0.12 < bright_share < 0.38


class Leaning(torch.nn.Module):
    """In a denoiser's place: expects grey 0 of an unlabelled image and, of class k, (k + 1) / 10; in one step."""

    def __init__(self) -> None:
        super().__init__()
        self.here = torch.nn.Parameter(torch.zeros(()))
        self.passes: list[Tensor] = []

    def forward(self, scaled: Tensor, quarter_log_level: Tensor, labels_B: Tensor) -> Tensor:
        self.passes.append(labels_B)
        level = (4 * quarter_log_level).exp()[:, None, None, None]
        total = (level.square() + DATA_SD**2).sqrt()
        clean = ((labels_B + 1) / 10)[:, None, None, None]
        return (clean - DATA_SD**2 / total * scaled) / (level * DATA_SD / total)


def test_guidance_goes_from_what_is_drawn_without_the_class_as_many_times_as_far_as_its_class_asks() -> None:
    """Ho and Salimans, eq. 6: D_none + w (D_class - D_none)."""
    model = build_model("diffusion", preset="tiny", size_px=16, channels=1, num_frames=1, seed=0, num_classes=3)
    assert isinstance(model, Diffusion)
    labels = torch.tensor([0, 1, 2, -1])
    for guidance, num_passes in ((1.0, 5), (0.0, 10), (2.5, 10)):
        model.denoiser = leaning = Leaning()  # type: ignore[assignment]
        model.sampling = Sampling(num_steps=3, guidance=guidance)
        images = model.sample_last_frame(4, labels=labels, generator=generator()) * 2 - 1
        expected = guidance * (labels + 1) / 10
        assert torch.allclose(images.mean((1, 2, 3)), expected, atol=1e-5)
        assert len(leaning.passes) == num_passes


def test_guidance_needs_classes_and_a_number_that_makes_sense() -> None:
    model = build()
    model.sampling = replace(model.sampling, guidance=2.0)
    with pytest.raises(ModelError, match="without classes"):
        model.sample_last_frame(1, generator=generator())
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ModelError, match="guidance"):
            Sampling(num_steps=5, guidance=wrong)


def test_a_tenth_of_the_classes_is_kept_from_the_network() -> None:
    model = build_model("diffusion", preset="tiny", size_px=8, channels=1, num_frames=1, seed=0, num_classes=2)
    assert isinstance(model, Diffusion)
    model.denoiser = leaning = Leaning()  # type: ignore[assignment]
    labels = torch.arange(2000) % 2
    model.loss(torch.rand(2000, 1, 1, 8, 8), frame_weights_T=[1.0], labels=labels, generator=generator())
    (seen,) = leaning.passes
    assert 0.08 < float((seen == -1).float().mean()) < 0.12
    assert torch.equal(seen[seen != -1], labels[seen != -1])
