import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autopv.errors import ModelError
from autopv.models.base import build_model, max_frames
from autopv.models.hvae import PRESETS, Hvae
from autopv.testing.model_suite import ModelSuite


class TestHvae(ModelSuite):
    model = "hvae"


class TestHvaeInColour(ModelSuite):
    model = "hvae"
    channels = 3


class TestHvaeOfMixtures(ModelSuite):
    model = "hvae"
    channels = 3

    @pytest.fixture(autouse=True)
    def _mixture(self, monkeypatch):
        monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], likelihood="logistic_mixture"))


def build(*, num_frames=1, size_px=16, preset="tiny", channels=1):
    model = build_model("hvae", preset=preset, size_px=size_px, channels=channels, num_frames=num_frames, seed=0)
    assert isinstance(model, Hvae)
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def loss_terms(model, frames, weights):
    return model.loss(frames, frame_weights_T=weights, generator=generator())


@pytest.mark.parametrize("size_px", [8, 16, 32])
@pytest.mark.parametrize("num_frames", [1, 6])
def test_tiny_serves_its_sizes(size_px, num_frames):
    model = build(size_px=size_px, num_frames=num_frames)
    frames = torch.rand(2, num_frames, 1, size_px, size_px, generator=generator())
    torch.autograd.backward(loss_terms(model, frames, [0.1] * (num_frames - 1) + [1.0]).total_loss)
    assert model.sample_last_frame(2, generator=generator()).shape == (2, 1, size_px, size_px)


def test_eight_frames_and_more_fit_at_16_px():
    model = build(num_frames=8)
    assert len(set(model.read_off)) == 8
    assert model.read_off[-1] == len(model.levels) - 1


def test_pseudo_frames_can_be_read_off_early(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], frame_levels=0.4))
    assert [i + 1 for i in build(num_frames=3).read_off] == [2, 4, 9]
    num_levels = len(build().levels)
    for num_frames in range(1, num_levels + 1):
        read_off = build(num_frames=num_frames).read_off
        assert len(set(read_off)) == num_frames
        assert list(read_off) == sorted(read_off)
        assert read_off[-1] == num_levels - 1


def test_base_serves_256_px():
    with torch.device("meta"):
        model = build(preset="base", size_px=256, channels=3, num_frames=4)
    assert model.flops_per_image(4) > model.flops_per_image(1)


def test_more_frames_than_levels_are_refused_with_the_limit():
    num_levels = len(build().levels)
    assert max_frames("hvae", preset="tiny", size_px=16) == num_levels
    build(num_frames=num_levels)
    with pytest.raises(ModelError, match=rf"num_frames <= {num_levels} .*num_frames={num_levels + 1}"):
        build(num_frames=num_levels + 1)


def test_a_size_the_preset_does_not_serve_is_refused():
    with pytest.raises(ModelError, match="one of 8, 16, 32, but got 24"):
        build(size_px=24)


def test_labels_are_refused_rather_than_ignored():
    model = build()
    with pytest.raises(ModelError, match="does not use labels"):
        model.sample_last_frame(2, labels=torch.zeros(2), generator=generator())


def test_sampling_the_last_frame_costs_the_same_for_every_length():
    costs = []
    for num_frames in (1, 3, 8):
        model = build(num_frames=num_frames).requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            model.sample_last_frame(2, generator=generator())
        costs.append(counter.get_total_flops())
    assert len(set(costs)) == 1


def test_the_posterior_sees_every_frame():
    model = build(num_frames=3)
    with torch.no_grad():
        for level in model.levels:
            level.posterior.weight.normal_(0, 0.1, generator=generator())
    frames = torch.rand(2, 3, 1, 16, 16, generator=generator())
    before = loss_terms(model, frames, [0.0, 0.0, 1.0]).terms["rate"]
    for t in range(3):
        changed = frames.clone()
        changed[:, t] = 1 - changed[:, t]
        assert loss_terms(model, changed, [0.0, 0.0, 1.0]).terms["rate"] != before


def test_the_loss_is_the_gaussian_bound_of_its_own_terms():
    model = build(num_frames=3)
    frames = torch.rand(2, 3, 1, 16, 16, generator=generator())
    loss = loss_terms(model, frames, [0.2, 0.4, 1.0])
    terms = {name: float(value) for name, value in loss.terms.items()}
    precision = math.exp(-2 * terms["log_scale"])
    distortion = 0.5 * precision * terms["mse_3"] + terms["log_scale"]
    pseudo = 0.5 * precision * (0.2 * terms["mse_1"] + 0.4 * terms["mse_2"])
    assert terms["distortion"] == pytest.approx(distortion, rel=1e-5)
    assert float(loss.total_loss.detach()) == pytest.approx(distortion + pseudo + terms["rate"], rel=1e-5)


def test_the_kl_is_that_of_two_gaussians():
    model = build()
    level = model.levels[3]
    with torch.no_grad():
        for conv in (level.prior, level.posterior):
            conv.weight.normal_(0, 0.1, generator=generator())
            conv.bias.normal_(0, 0.3, generator=generator())
    stage = model.level_stages[3]
    state, features = (torch.randn(2, stage.width, stage.side, stage.side, generator=generator(i)) for i in (1, 2))
    noise = torch.randn(2, stage.latent_channels, stage.side, stage.side, generator=generator(3))
    _, kl = level.infer(state, features, noise=noise)
    mean, log_scale = level.prior(state).chunk(2, 1)
    hidden = torch.nn.functional.silu(level.look_state(state) + level.look_features(features))
    shift, log_ratio = level.posterior(hidden).chunk(2, 1)
    prior = torch.distributions.Normal(mean, log_scale.exp())
    posterior = torch.distributions.Normal(mean + log_scale.exp() * shift, (log_scale + log_ratio).exp())
    expected = torch.distributions.kl_divergence(posterior, prior).sum()
    assert float(kl.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_pseudo_frames_cannot_move_the_likelihood_scale():
    model = build(num_frames=3)
    frames = torch.rand(2, 3, 1, 16, 16, generator=generator())
    gradients = []
    for weight in (0.0, 5.0):
        model.zero_grad()
        torch.autograd.backward(loss_terms(model, frames, [weight, weight, 1.0]).total_loss)
        gradients.append(model.likelihood.scaled_log_scale.grad.clone())
    assert torch.equal(gradients[0], gradients[1])


def test_the_rate_counts_as_often_as_asked():
    model = build()
    with torch.no_grad():
        model.levels[-1].posterior.bias.fill_(0.5)
    frames = torch.rand(2, 1, 1, 16, 16, generator=generator())

    def total(kl_weight):
        loss = model.loss(frames, frame_weights_T=[1.0], generator=generator(), kl_weight=kl_weight)
        return float(loss.total_loss.detach()), float(loss.terms["rate"])

    (free, rate), (once, _), (twice, _) = total(0.0), total(1.0), total(2.0)
    assert rate > 0.1
    assert once - free == pytest.approx(rate, rel=1e-4)
    assert twice - once == pytest.approx(rate, rel=1e-4)


def test_a_frame_of_weight_zero_trains_no_head_of_its_own():
    model = build(num_frames=2)
    torch.autograd.backward(loss_terms(model, torch.rand(2, 2, 1, 16, 16), [0.0, 1.0]).total_loss)
    assert not model.heads[0].paint.weight.grad.any()


@pytest.mark.slow
def test_small_takes_a_step_at_64_px():
    model = build(preset="small", size_px=64, num_frames=2, channels=3)
    frames = torch.rand(1, 2, 3, 64, 64, generator=generator())
    torch.autograd.backward(loss_terms(model, frames, [0.1, 1.0]).total_loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
