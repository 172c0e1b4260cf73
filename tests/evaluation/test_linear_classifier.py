"""The optimum of the logistic regression by its gradient, by a solution on paper, and by another optimiser."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, softmax

from autopv.errors import MetricError
from autopv.evaluation.linear_classifier import balanced_weights, choose_penalty, fit_classifier

Array = NDArray[np.float64]


def blobs(count: int, *, seed: int, num_features: int = 5, gap: float = 1.0) -> tuple[Array, NDArray[np.int64]]:
    """Three classes of Gaussians with unit-length centres, `gap` apart from the origin."""
    random = np.random.default_rng(seed)
    labels_N = np.arange(count) % 3
    centres_KD = gap * np.eye(3, num_features)
    return centres_KD[labels_N] + 0.3 * random.normal(size=(count, num_features)), labels_N


@pytest.mark.parametrize(("count", "num_features"), [(60, 5), (12, 40)])
@pytest.mark.parametrize("penalty", [1.0, 1e-3])
def test_the_gradient_is_zero_at_the_optimum(count: int, num_features: int, penalty: float) -> None:
    features_ND, labels_N = blobs(count, seed=1, num_features=num_features)
    weights_N = np.random.default_rng(2).uniform(0.5, 2, count)
    found = fit_classifier(features_ND, labels_N, weights_N=weights_N, penalty=penalty)
    residual_NK = (softmax(found.logits(features_ND), axis=1) - np.eye(3)[labels_N]) * (weights_N / weights_N.sum())[
        :, None
    ]
    assert np.abs(features_ND.T @ residual_NK + penalty * found.weights_DK).max() < 1e-5
    assert np.abs(residual_NK.sum(axis=0)).max() < 1e-5


def test_two_points_give_the_solution_on_paper() -> None:
    # Points at +1 and -1: the logit difference at +1 is d = 2 w, and the slope of log(1 + exp(-d)) + penalty w^2 is 0.
    found = fit_classifier(np.array([[1.0], [-1.0]]), np.array([0, 1]), weights_N=np.ones(2), penalty=0.1)
    weight = brentq(lambda w: 0.1 * w - 1 / (1 + np.exp(2 * w)), 0, 10)
    assert found.weights_DK.ravel() == pytest.approx([weight, -weight], abs=1e-5)
    assert found.biases_K == pytest.approx([0, 0], abs=1e-5)


def test_another_optimiser_finds_the_same_chances() -> None:
    features_ND, labels_N = blobs(30, seed=3)

    def loss(parameters: Array) -> float:
        weights, biases = parameters[:15].reshape(5, 3), parameters[15:]
        chances = log_softmax(features_ND @ weights + biases, axis=1)
        return float(-chances[np.arange(30), labels_N].mean() + 0.01 / 2 * np.square(weights).sum())

    reference = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-6}).x
    found = fit_classifier(features_ND, labels_N, weights_N=np.ones(30), penalty=0.01)
    wanted = softmax(features_ND @ reference[:15].reshape(5, 3) + reference[15:], axis=1)
    assert softmax(found.logits(features_ND), axis=1) == pytest.approx(wanted, abs=1e-4)


def test_a_weight_of_two_is_an_image_shown_twice_and_the_start_does_not_matter() -> None:
    features_ND, labels_N = blobs(21, seed=4)
    twice = np.r_[np.arange(21), 0, 1]
    weights_N = np.ones(21)
    weights_N[:2] = 2
    weighted = fit_classifier(features_ND, labels_N, weights_N=weights_N, penalty=0.01)
    doubled = fit_classifier(features_ND[twice], labels_N[twice], weights_N=np.ones(23), penalty=0.01)
    assert doubled.weights_DK == pytest.approx(weighted.weights_DK, abs=1e-4)
    far = fit_classifier(features_ND, labels_N, weights_N=np.ones(21), penalty=1.0)
    again = fit_classifier(features_ND, labels_N, weights_N=weights_N, penalty=0.01, start=far)
    assert again.weights_DK == pytest.approx(weighted.weights_DK, abs=1e-4)


def test_the_penalty_is_strong_where_features_tell_nothing_and_weak_where_they_tell_all() -> None:
    random = np.random.default_rng(5)
    labels_N = np.arange(60) % 2
    noise_ND = random.normal(size=(60, 20)) / 20**0.5
    told_ND = noise_ND.copy()
    told_ND[:, 0] = 2 * labels_N - 1
    assert choose_penalty(noise_ND, labels_N) >= 0.1
    assert choose_penalty(told_ND, labels_N) <= 1e-4


def test_balanced_weights_give_each_class_one_share() -> None:
    assert balanced_weights(np.array([0, 0, 0, 1])) == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def test_a_fit_that_fails_says_so() -> None:
    features_ND, labels_N = blobs(30, seed=6)
    with pytest.raises(MetricError, match="did not converge"), np.errstate(all="ignore"):
        fit_classifier(features_ND * 1e200, labels_N, weights_N=np.ones(30), penalty=1e-5)
