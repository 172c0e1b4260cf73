"""The hierarchical VAE's evidence bound against one written anew from torch.distributions."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from autopv.models.base import build_model
from autopv.models.ladder import LOG_SCALE_RANGE

SIZE_PX = 8


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What went through one evaluation of the loss, level by level and frame by frame, in double precision."""

    terms: dict[str, float]
    total: float
    priors: list[Normal]
    posteriors: list[Normal]
    latents: list[Tensor]
    outputs: list[Tensor]

    @property
    def kl(self):
        """Per image (N,)."""
        pairs = zip(self.posteriors, self.priors, strict=True)
        return sum(kl_divergence(q, p).flatten(1).sum(1) for q, p in pairs)


def gaussian_log_density(outputs, images, *, terms):
    """log p(image | outputs) of every value, images in [-1, 1], and the constant that the loss leaves out of it."""
    return Normal(outputs, math.exp(terms["log_scale"])).log_prob(images), -0.5 * math.log(2 * math.pi)


def build(*, num_frames, channels=1):
    """A model whose priors and posteriors all say something."""
    model = build_model("hvae", preset="tiny", size_px=SIZE_PX, channels=channels, num_frames=num_frames, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for level in model.levels:
            for conv in (level.prior, level.posterior):
                conv.weight.normal_(0, 0.03, generator=generator)
                conv.bias.normal_(0, 0.2, generator=generator)
    return model.eval().requires_grad_(False)


def watched_loss(model, frames_BTCHW, *, weights_T, seed=3):
    caught = {name: [] for name in ("prior", "posterior", "take", "heads")}
    handles = [head.register_forward_hook(lambda *call: caught["heads"].append(call[2])) for head in model.heads]
    for level in model.levels:
        handles.append(level.prior.register_forward_hook(lambda *call: caught["prior"].append(call[2])))
        handles.append(level.posterior.register_forward_hook(lambda *call: caught["posterior"].append(call[2])))
        handles.append(level.take.register_forward_hook(lambda *call: caught["take"].append(call[1][0])))
    loss = model.loss(frames_BTCHW, frame_weights_T=weights_T, generator=torch.Generator().manual_seed(seed))
    for handle in handles:
        handle.remove()
    priors, posteriors = [], []
    for of_prior, of_posterior in zip(caught["prior"], caught["posterior"], strict=True):
        mean, log_scale = of_prior.double().chunk(2, 1)
        shift, log_ratio = of_posterior.double().chunk(2, 1)
        for values in (log_scale, log_ratio):
            assert LOG_SCALE_RANGE[0] < float(values.min()) <= float(values.max()) < LOG_SCALE_RANGE[1]
        priors.append(Normal(mean, log_scale.exp()))
        posteriors.append(Normal(mean + log_scale.exp() * shift, (log_scale + log_ratio).exp()))
    return Pass(
        terms={name: float(value) for name, value in loss.terms.items()},
        total=float(loss.total_loss),
        priors=priors,
        posteriors=posteriors,
        latents=[z.double() for z in caught["take"]],
        outputs=[output.double() for output in caught["heads"]],
    )


def videos(count, *, num_frames, channels=1):
    shape = (count, num_frames, channels, SIZE_PX, SIZE_PX)
    return torch.rand(shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("num_frames", "channels"), [(1, 1), (3, 3)])
def test_the_loss_is_the_negative_evidence_bound_per_value_of_the_image(num_frames, channels):
    model = build(num_frames=num_frames, channels=channels)
    frames_BTCHW = videos(4, num_frames=num_frames, channels=channels)
    weights_T = [0.3, 0.7, 1.0][-num_frames:]
    seen = watched_loss(model, frames_BTCHW, weights_T=weights_T)
    targets = (2 * frames_BTCHW.double() - 1).unbind(1)
    log_density, left_out = gaussian_log_density(seen.outputs[-1], targets[-1], terms=seen.terms)
    num_values = targets[-1].numel()
    distortion = -float((log_density - left_out).sum()) / num_values
    rate = float(seen.kl.sum()) / num_values
    # A frame of weight w is Gaussian with w times the image's precision, whose normaliser is nothing to learn from.
    pseudo = 0.0
    for output, target, weight in zip(seen.outputs[:-1], targets[:-1], weights_T[:-1], strict=True):
        frame = Normal(output, math.exp(seen.terms["log_scale"]) / math.sqrt(weight))
        pseudo += float((frame.log_prob(output) - frame.log_prob(target)).sum()) / num_values
    assert rate > 0.1
    assert seen.terms["distortion"] == pytest.approx(distortion, rel=1e-5)
    assert seen.terms["rate"] == pytest.approx(rate, rel=1e-5)
    assert seen.total == pytest.approx(distortion + pseudo + rate, rel=1e-5)


def test_the_latents_are_drawn_from_the_posteriors_by_the_generators_noise():
    model = build(num_frames=2)
    seen = watched_loss(model, videos(4, num_frames=2), weights_T=[0.5, 1.0], seed=9)
    sizes = [z[0].numel() for z in seen.latents]
    noise = torch.randn(4, sum(sizes), generator=torch.Generator().manual_seed(9)).double()
    for z, q, part in zip(seen.latents, seen.posteriors, noise.split(sizes, 1), strict=True):
        assert torch.allclose(z, q.mean + q.stddev * part.view_as(z), rtol=1e-4, atol=1e-5)


def test_the_rate_is_what_the_latents_cost_on_average():
    model = build(num_frames=1)
    copies = videos(1, num_frames=1).expand(512, -1, -1, -1, -1)
    seen = watched_loss(model, copies, weights_T=[1.0])
    cost_N = sum(
        (q.log_prob(z) - p.log_prob(z)).flatten(1).sum(1)
        for q, p, z in zip(seen.posteriors, seen.priors, seen.latents, strict=True)
    )
    difference_N = cost_N - seen.kl
    error = float(difference_N.std()) / math.sqrt(len(difference_N))
    assert error < 0.02 * float(cost_N.mean())
    assert abs(float(difference_N.mean())) < 4 * error


def test_images_are_sampled_by_the_decoder_that_the_bound_trains(monkeypatch):
    model = build(num_frames=3)
    seen = watched_loss(model, videos(4, num_frames=3), weights_T=[0.1, 0.1, 1.0])
    # The noise with which the priors draw what the posteriors drew.
    pairs = zip(seen.latents, seen.priors, strict=True)
    noise = torch.cat([((z - p.mean) / p.stddev).flatten(1) for z, p in pairs], 1).float()
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
    frames_BTCHW = model.sample_frames(4, generator=torch.Generator())
    expected = ((torch.stack(seen.outputs, 1) + 1) / 2).clamp(0, 1).float()
    assert torch.allclose(frames_BTCHW, expected, rtol=1e-4, atol=1e-4)
