"""The refining generator: its evidence bound, that it never sees a true frame, and that its errors do not add up."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from autopv.models.base import build_model, max_frames
from autopv.models.refine import Refine
from autopv.testing.model_suite import ModelSuite
from autopv.training.learner import Learner
from autopv.training.plan import TrainingPlan

SIZE_PX = 8


class TestRefine(ModelSuite):
    model = "refine"


class TestRefineInColour(ModelSuite):
    model = "refine"
    channels = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def build(*, num_frames, seed=0):
    model = build_model("refine", preset="tiny", size_px=SIZE_PX, channels=1, num_frames=num_frames, seed=seed)
    assert isinstance(model, Refine)
    return model


def telling(*, num_frames):
    """A model whose priors and posteriors all say something."""
    model = build(num_frames=num_frames)
    chance = generator(1)
    with torch.no_grad():
        for offset in model.start:
            offset.normal_(0, 0.5, generator=chance)
        for level in model.levels:
            for conv in (level.prior, level.posterior):
                conv.weight.normal_(0, 0.03, generator=chance)
                conv.bias.normal_(0, 0.2, generator=chance)
    return model.eval().requires_grad_(False)


def videos(count, *, num_frames, seed=2):
    return torch.rand((count, num_frames, 1, SIZE_PX, SIZE_PX), generator=generator(seed))


@pytest.mark.parametrize("num_frames", [1, 3])
def test_the_loss_is_the_negative_evidence_bound_per_value_of_the_image(num_frames):
    model = telling(num_frames=num_frames)
    frames_BTCHW = videos(4, num_frames=num_frames)
    weights_T = [0.3, 0.7, 1.0][-num_frames:]
    priors, posteriors, painted = [], [], []
    hooks = [model.head.register_forward_hook(lambda *call: painted.append(call[2].double()))]
    for level in model.levels:
        hooks.append(level.prior.register_forward_hook(lambda *call: priors.append(call[2].double())))
        hooks.append(level.posterior.register_forward_hook(lambda *call: posteriors.append(call[2].double())))
    loss = model.loss(frames_BTCHW, frame_weights_T=weights_T, generator=generator(3))
    for hook in hooks:
        hook.remove()
    assert len(priors) == num_frames * len(model.levels), "each step draws latents of its own"
    rate = 0.0
    for of_prior, of_posterior in zip(priors, posteriors, strict=True):
        (mean, log_scale), (shift, log_ratio) = of_prior.chunk(2, 1), of_posterior.chunk(2, 1)
        prior = Normal(mean, log_scale.exp())
        posterior = Normal(mean + log_scale.exp() * shift, (log_scale + log_ratio).exp())
        rate += float(kl_divergence(posterior, prior).sum())
    scale, pseudo = math.exp(float(loss.terms["log_scale"])), 0.0
    targets = 2 * frames_BTCHW.double() - 1
    canvases = torch.stack(painted).cumsum(0)
    for canvas, target, weight in zip(canvases, targets.unbind(1), weights_T, strict=True):
        # A frame of weight w is Gaussian with w times the image's precision; normalisers are left out.
        frame = Normal(canvas, scale / math.sqrt(weight))
        pseudo += float((frame.log_prob(canvas) - frame.log_prob(target)).sum())
    expected = (pseudo + rate) / targets[:, -1].numel() + math.log(scale)
    assert rate > 0
    assert float(loss.total_loss) == pytest.approx(expected, rel=1e-5)


def test_a_step_never_sees_a_true_frame():
    """Whatever the frames are, with the posterior's view of them held the steps paint the same."""
    model = telling(num_frames=4)
    one, two = videos(3, num_frames=4), videos(3, num_frames=4, seed=5)
    held = model.watch((2 * one - 1).flatten(1, 2))
    model.watch.forward = lambda _: held
    painted = []
    model.head.register_forward_hook(lambda *call: painted.append(call[2]))
    for frames in (one, two):
        model.loss(frames, frame_weights_T=[0.1, 0.1, 0.1, 1.0], generator=generator(3))
    assert all(torch.equal(a, b) for a, b in zip(painted[:4], painted[4:], strict=True))


def test_images_are_sampled_by_the_steps_that_the_bound_trains(monkeypatch):
    """With the noise that makes the priors draw what the posteriors drew, samples are the reconstructions."""
    model = telling(num_frames=3)
    priors, latents, painted = [], [], []
    hooks = [model.head.register_forward_hook(lambda *call: painted.append(call[2]))]
    for level in model.levels:
        hooks.append(level.prior.register_forward_hook(lambda *call: priors.append(call[2].double().chunk(2, 1))))
        hooks.append(level.take.register_forward_hook(lambda *call: latents.append(call[1][0].double())))
    model.loss(videos(4, num_frames=3), frame_weights_T=[0.1, 0.1, 1.0], generator=generator(3))
    for hook in hooks:
        hook.remove()
    pairs = zip(latents, priors, strict=True)
    noise = torch.cat([((z - mean) / log_scale.exp()).flatten(1) for z, (mean, log_scale) in pairs], 1).float()
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
    frames_BTCHW = model.sample_frames(4, generator=generator())
    expected = ((torch.stack(painted, 1).cumsum(1) + 1) / 2).clamp(0, 1)
    assert torch.allclose(frames_BTCHW, expected, rtol=1e-4, atol=1e-4)


def test_all_steps_share_their_weights():
    sizes = {
        num_frames: {n: p.numel() for n, p in build(num_frames=num_frames).named_parameters()} for num_frames in (2, 8)
    }
    different = {name for name in sizes[2] if sizes[2][name] != sizes[8][name]}
    assert set(sizes[2]) == set(sizes[8])
    offsets = {f"start.{stage}" for stage in range(len(build(num_frames=2).stages))}
    assert different == {*offsets, "watch.enter.weight"}, "which step it is, and the posterior's view of all frames"
    assert max_frames("refine", preset="tiny", size_px=SIZE_PX) is None


@pytest.mark.slow
def test_errors_do_not_add_up_over_a_video():
    """Videos that fade in two kinds of images: sampled frames come nearer to a kind from step to step."""
    num_frames, num_steps = 6, 150
    columns, rows = torch.meshgrid(torch.arange(SIZE_PX), torch.arange(SIZE_PX), indexing="xy")
    kinds = torch.stack([columns < SIZE_PX // 2, rows < SIZE_PX // 2]).float()[:, None] * 0.6 + 0.2
    shares_T = torch.linspace(1 / num_frames, 1, num_frames)

    def faded(images):
        return 0.5 + shares_T.view(1, -1, 1, 1, 1) * (images - 0.5)[:, None]

    model = build(num_frames=num_frames)
    learner, chance = Learner(model, plan=TrainingPlan(total_flops=1e9)), generator(1)
    for step in range(num_steps):
        images = kinds[torch.randint(2, (16,), generator=chance)]
        noisy = (images + 0.05 * torch.randn(images.shape, generator=chance)).clamp(0, 1)
        learner.step(
            faded(noisy),
            frame_weights_T=[0.1] * (num_frames - 1) + [1.0],
            kl_weight=1.0,
            learning_rate=3e-3 * min(1, 2 * (num_steps - step) / num_steps),
            generator=generator(step),
        )
    frames = model.sample_frames(200, generator=generator(2))
    apart = (frames[:, None] - faded(kinds)[None]).square().mean((3, 4, 5)).min(1).values.mean(0).sqrt() / shares_T
    assert float(apart[-1]) < 0.15, "the kinds are 0.42 apart"
    assert float(apart[-1]) < 0.8 * float(apart[0])
    assert all(later < 1.1 * earlier for earlier, later in itertools.pairwise(apart.tolist()))
