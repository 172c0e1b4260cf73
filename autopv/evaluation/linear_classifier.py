"""Multinomial logistic regression with an L2 penalty: the light classifier of the downstream probe.

    sum of w_i CE(softmax(W x_i + b), y_i) / sum of w_i  +  penalty / 2 |W|^2

The objective is convex, so the optimum depends on no seed, start or order of the images. Features are taken in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from autopv.errors import MetricError

NUM_FOLDS = 5
# For features of mean squared length 1, whatever their number: from hardly any penalty to near the class shares alone.
# From strong to weak, so that each optimum is a start for the next; of equals the strongest is chosen.
_PENALTIES = tuple(10.0**exponent for exponent in (0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4, -4.5, -5))
_MAX_ITERATIONS = 2000
# Largest entry of the gradient: of the optimiser's goal, and beyond which the fit counts as failed.
_GOAL, _FAILED = 1e-7, 1e-4

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Weights (D, K) and biases (K) of the logits of K classes."""

    weights_DK: Array
    biases_K: Array

    def logits(self, features_ND: Array) -> Array:
        """One logit for each image and class (N, K)."""
        logits_NK: Array = features_ND @ self.weights_DK + self.biases_K
        return logits_NK


def fit_classifier(
    features_ND: Array, labels_N: Labels, *, weights_N: Array, penalty: float, start: LinearClassifier | None = None
) -> LinearClassifier:
    """The classifier at the optimum of the objective (see the module) for the classes 0 .. largest label.

    Raises: MetricError where the optimiser ends elsewhere.
    """
    basis_DP = _span(features_ND)
    coordinates_NP = features_ND @ basis_DP
    num_classes = int(labels_N.max()) + 1
    shape = (coordinates_NP.shape[1] + 1, num_classes)
    first = np.zeros(shape)
    if start is not None:
        first = np.vstack([basis_DP.T @ start.weights_DK, start.biases_K])
    weights_N = weights_N / weights_N.sum()
    target_NK = np.eye(num_classes)[labels_N]

    def objective(parameters: Array) -> tuple[float, Array]:
        table = parameters.reshape(shape)
        log_chance_NK = log_softmax(coordinates_NP @ table[:-1] + table[-1], axis=1)
        residual_NK = weights_N[:, None] * (np.exp(log_chance_NK) - target_NK)
        fit = -weights_N @ log_chance_NK[np.arange(len(labels_N)), labels_N]
        gradient = np.vstack([coordinates_NP.T @ residual_NK + penalty * table[:-1], residual_NK.sum(axis=0)])
        return float(fit + penalty / 2 * np.square(table[:-1]).sum()), gradient.ravel()

    options = {"maxiter": _MAX_ITERATIONS, "gtol": _GOAL, "ftol": 0.0, "maxfun": 2 * _MAX_ITERATIONS}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    slope = float(np.abs(objective(found.x)[1]).max())
    # Negated, so that nan counts as failed.
    if not slope <= _FAILED:
        raise MetricError(
            f"the logistic regression did not converge: a slope of {slope:.2g} was left after {found.nit} steps with "
            f"{len(labels_N)} images and penalty {penalty:.2g}; look for extreme values among the features"
        )
    table = found.x.reshape(shape)
    return LinearClassifier(basis_DP @ table[:-1], table[-1])


def choose_penalty(features_ND: Array, labels_N: Labels) -> float:
    """The penalty with the least class-balanced log loss in cross-validation, folds dealt in the order given."""
    folds_N = _folds(labels_N)
    features_NP = features_ND @ _span(features_ND)
    losses = np.zeros(len(_PENALTIES))
    for fold in range(NUM_FOLDS):
        fitted, held = folds_N != fold, folds_N == fold
        classifier = None
        for i, penalty in enumerate(_PENALTIES):
            weights = balanced_weights(labels_N[fitted])
            classifier = fit_classifier(
                features_NP[fitted], labels_N[fitted], weights_N=weights, penalty=penalty, start=classifier
            )
            log_chance_NK = log_softmax(classifier.logits(features_NP[held]), axis=1)
            loss_N = -log_chance_NK[np.arange(int(held.sum())), labels_N[held]]
            losses[i] += float(balanced_weights(labels_N)[held] @ loss_N)
    return _PENALTIES[int(losses.argmin())]


def balanced_weights(labels_N: Labels) -> Array:
    """Weights that give every class the same total, 1 over all."""
    counts_K = np.bincount(labels_N)
    weights_N: Array = 1.0 / (counts_K[labels_N] * np.count_nonzero(counts_K))
    return weights_N


def _folds(labels_N: Labels) -> Labels:
    """The images of each class dealt to the folds in turn; each class goes on where the last one ended."""
    folds_N = np.empty(len(labels_N), dtype=np.int64)
    folds_N[np.argsort(labels_N, kind="stable")] = np.arange(len(labels_N)) % NUM_FOLDS
    return folds_N


def _span(features_ND: Array) -> Array:
    """An orthonormal basis (D, P) of what holds the penalised optimum: the span of the images where they are fewer."""
    num_images, num_features = features_ND.shape
    if num_images >= num_features:
        return np.eye(num_features)
    basis_DN: Array = np.linalg.qr(features_ND.T).Q
    return basis_DN
