"""Fréchet distance between two sets of features, in float64: each set is summed up by its mean and covariance.

    |mean_a - mean_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^1/2)

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", eq. 6. The last trace is not taken from a matrix
square root (slow, and inaccurate where the covariances are singular or nearly so) but from singular values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.checks import check_features, check_pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """Mean (D) and covariance (D, D) of a set of features, float64."""

    mean_D: Tensor
    covariance_DD: Tensor

    def __post_init__(self) -> None:
        if self.covariance_DD.shape != (*self.mean_D.shape, *self.mean_D.shape) or self.mean_D.ndim != 1:
            raise MetricError(
                "moments must be a mean (D) and a covariance (D, D), but got "
                f"{tuple(self.mean_D.shape)} and {tuple(self.covariance_DD.shape)}"
            )
        for name, values in (("mean", self.mean_D), ("covariance", self.covariance_DD)):
            if values.dtype != torch.float64:
                raise MetricError(f"moments must be float64, but the {name} is {values.dtype}")
            if not bool(values.isfinite().all()):
                raise MetricError(f"moments must be finite, but the {name} holds nan or inf")


def feature_moments(features_ND: Tensor) -> Moments:
    """Mean and unbiased covariance of the features."""
    check_features(features_ND, "features_ND")
    mean_D, centred_ND = _centre(features_ND)
    return Moments(mean_D=mean_D, covariance_DD=centred_ND.T @ centred_ND / (len(features_ND) - 1))


def frechet_distance(features_a_ND: Tensor, features_b_MD: Tensor) -> float:
    """The Fréchet distance between two sets of features (at least 2 each; the sets may differ in size).

    Raises: MetricError for features that are not finite, too few, or of unequal width.
    """
    check_pair(features_a_ND, features_b_MD)
    mean_a_D, factor_a, _ = _mean_and_factor(features_a_ND)
    mean_b_D, factor_b, _ = _mean_and_factor(features_b_MD)
    return _distance_of_factors(mean_a_D - mean_b_D, factor_a, factor_b)


def frechet_distance_with_influences(features_a_ND: Tensor, features_b_MD: Tensor) -> tuple[float, Tensor, Tensor]:
    """The Fréchet distance, and how far each image of either set moves it (two vectors, as `Estimate` takes them).

    With centred features x and the singular value decomposition F_a F_b^T = U S V^T, an image of b moves the distance
    by (|x|^2 - 2 shift.x) / m - sum_k S_k V_ik^2: all of it comes from one decomposition of the size of the sets.
    Raises: MetricError as `frechet_distance` does.
    """
    check_pair(features_a_ND, features_b_MD)
    mean_a_D, factor_a, basis_a = _mean_and_factor(features_a_ND)
    mean_b_D, factor_b, basis_b = _mean_and_factor(features_b_MD)
    shift_D = mean_a_D - mean_b_D
    left, singular_K, right_t = torch.linalg.svd(factor_a @ factor_b.T, full_matrices=False)
    spread = factor_a.square().sum() + factor_b.square().sum()
    value = max(0.0, float(shift_D.square().sum() + spread - 2 * singular_K.sum()))
    sides = (
        (factor_a, basis_a, left, len(features_a_ND), shift_D),
        (factor_b, basis_b, right_t.T, len(features_b_MD), -shift_D),
    )
    influences = []
    for factor, basis, vectors, num, away_D in sides:
        rows_ND = factor if basis is None else basis @ factor
        rows_NK = vectors if basis is None else basis @ vectors
        scale = (num - 1) ** 0.5
        moved_N = rows_ND.square().sum(dim=1) + 2 * scale / num * (rows_ND @ away_D) - rows_NK.square() @ singular_K
        influences.append(moved_N - moved_N.mean())
    return value, influences[0], influences[1]


def frechet_distance_of_moments(a: Moments, b: Moments) -> float:
    """The Fréchet distance between two sets known by their moments alone."""
    if a.mean_D.shape != b.mean_D.shape:
        raise MetricError(f"both moments must have one width, but got {len(a.mean_D)} and {len(b.mean_D)}")
    return _distance_of_factors(a.mean_D - b.mean_D, _factor_of(a.covariance_DD), _factor_of(b.covariance_DD))


def _distance_of_factors(shift_D: Tensor, factor_a: Tensor, factor_b: Tensor) -> float:
    """The distance for covariances C = F^T F, given by factors F of any number of rows.

    tr((C_a C_b)^1/2) is the sum of the singular values of F_a F_b^T: no product of covariances is ever formed, whose
    square roots would halve the number of correct digits.
    """
    spread = factor_a.square().sum() + factor_b.square().sum()
    overlap = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    # A squared distance: what falls below zero is rounding.
    return max(0.0, float(shift_D.square().sum() + spread - 2 * overlap))


def _mean_and_factor(features_ND: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean, factor F of the covariance, and Q where the rows of F are not the images: then those are Q F."""
    mean_D, centred_ND = _centre(features_ND)
    factor: Tensor = centred_ND / (len(centred_ND) - 1) ** 0.5
    if factor.shape[0] > factor.shape[1]:
        # R of a QR decomposition has the same covariance in D rows: singular values of 50,000 images stay affordable.
        basis, factor = torch.linalg.qr(factor, mode="reduced")
        return mean_D, factor, basis
    return mean_D, factor, None


def _factor_of(covariance_DD: Tensor) -> Tensor:
    values_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    # Rounding may push the zero eigenvalues of a singular covariance below zero.
    factor_DD: Tensor = values_D.clamp_min(0).sqrt()[:, None] * vectors_DD.T
    return factor_DD


def _centre(features_ND: Tensor) -> tuple[Tensor, Tensor]:
    features_ND = features_ND.detach().to("cpu", torch.float64)
    mean_D = features_ND.mean(dim=0)
    return mean_D, features_ND - mean_D
