import math

import pytest
import torch

from autopv.models.likelihood import Gaussian, LogisticMixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(value, *, channels=1):
    return torch.full((1, channels, 1, 1), value / 127.5 - 1)


def test_a_mixture_gives_all_eight_bit_values_probabilities_that_sum_to_one():
    likelihood = LogisticMixture(1)
    outputs = torch.randn(1, likelihood.num_outputs, 1, 1, generator=generator())
    scores = [float(likelihood.score(outputs, pixels(value))[0]) for value in range(256)]
    assert sum(math.exp(-score) for score in scores) == pytest.approx(1, abs=1e-4)


def test_one_component_is_scipys_logistic():
    from scipy.stats import logistic

    likelihood = LogisticMixture(1, num_components=1)
    mean, log_scale, value = 0.2, -2.5, 140
    # Of one component the weight does not matter, and the mean is not shifted.
    outputs = torch.tensor([0.0, mean, log_scale + 1.0]).view(1, 3, 1, 1)
    expected = logistic(mean, math.exp(log_scale))
    x = value / 127.5 - 1
    probability = expected.cdf(x + 1 / 255) - expected.cdf(x - 1 / 255)
    assert float(likelihood.score(outputs, pixels(value))[0]) == pytest.approx(-math.log(probability), rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_draws_follow_the_probabilities_that_are_scored(channels):
    likelihood = LogisticMixture(channels, num_components=2)
    outputs = 0.5 * torch.randn(1, likelihood.num_outputs, 1, 1, generator=generator(1))
    many = 20000
    uniforms = torch.rand(many, likelihood.num_uniforms, 1, 1, generator=generator(2))
    drawn = likelihood.draw(outputs.expand(many, -1, -1, -1), uniforms)
    assert drawn.shape == (many, channels, 1, 1)
    assert float(drawn.abs().max()) <= 1
    if channels == 1:
        share = float((drawn < 0).float().mean())
        scores = [float(likelihood.score(outputs, pixels(value))[0]) for value in range(128)]
        assert share == pytest.approx(sum(math.exp(-score) for score in scores), abs=0.02)
    # A draw is more probable than the same values paired with another draw's: the channels depend on each other.
    if channels > 1:
        shuffled = drawn.clone()
        shuffled[:, 1:] = drawn.roll(1, 0)[:, 1:]
        own, other = (float(likelihood.score(outputs.expand(many, -1, -1, -1), x)[0]) for x in (drawn, shuffled))
        assert own < other - 0.01


def test_the_error_is_that_of_the_mixtures_mean():
    likelihood = LogisticMixture(1)
    outputs = torch.randn(1, likelihood.num_outputs, 4, 4, generator=generator())
    weights = outputs.view(1, 5, 3, 4, 4)[:, :, 0].softmax(1)
    spread = torch.linspace(-1, 1, 7)[1:-1].view(1, 5, 1, 1)
    mean = (weights * (outputs.view(1, 5, 3, 4, 4)[:, :, 1] + spread)).sum(1, keepdim=True)
    target = torch.rand(1, 1, 4, 4, generator=generator(1)) * 2 - 1
    _, error, log_scale = likelihood.score(outputs, target)
    assert float(error) == pytest.approx(float((mean - target).square().mean()), rel=1e-5)
    assert float(log_scale) == pytest.approx(0.5 * math.log(float(error)), rel=1e-5)


def test_extreme_outputs_keep_scores_and_gradients_finite():
    likelihood = LogisticMixture(3)
    for size in (0.0, 30.0, 1000.0):
        outputs = (size * torch.randn(2, likelihood.num_outputs, 4, 4, generator=generator())).requires_grad_()
        score, _, _ = likelihood.score(outputs, torch.rand(2, 3, 4, 4, generator=generator(1)) * 2 - 1)
        torch.autograd.backward(score)
        assert math.isfinite(score.item())
        assert torch.isfinite(outputs.grad).all()


def test_a_gaussian_scores_up_to_a_constant_and_draws_its_mean():
    likelihood = Gaussian(1)
    outputs, target = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.3)
    score, error, log_scale = (value.detach() for value in likelihood.score(outputs, target))
    normal = torch.distributions.Normal(0.0, log_scale.exp())
    assert float(score) == pytest.approx(float(-normal.log_prob(torch.tensor(0.3))) - 0.5 * math.log(2 * math.pi))
    assert float(error) == pytest.approx(0.09)
    assert torch.equal(likelihood.draw(outputs, torch.rand(1, 0, 2, 2)), outputs)
