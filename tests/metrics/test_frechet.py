import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.frechet import (
    Moments,
    feature_moments,
    frechet_distance,
    frechet_distance_of_moments,
    frechet_distance_with_influences,
)


def features(count: int, width: int, *, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features of unequal scales."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(7)) / width**0.5
    scales = torch.logspace(-2, 1, width)
    return torch.randn(count, width, generator=generator) @ mixing * scales + shift


def by_sqrtm(a: Tensor, b: Tensor) -> float:
    """The distance as published: a matrix square root in double precision."""
    x, y = a.double().numpy(), b.double().numpy()
    covariances = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def with_40_digits(a: Tensor, b: Tensor) -> float:
    """The distance from a Cholesky factor L of C_a and the eigenvalues of L^T C_b L, at 40 digits."""
    mp = pytest.importorskip("mpmath", reason="mpmath comes with torch's sympy").mp.clone()
    mp.dps = 40
    means, covariances = [], []
    for features_ND in (a, b):
        rows = mp.matrix(features_ND.double().tolist())
        ones = mp.ones(rows.rows, 1)
        mean = ones.T * rows / rows.rows
        centred = rows - ones * mean
        means.append(mean)
        covariances.append(centred.T * centred / (rows.rows - 1))
    factor = mp.cholesky(covariances[0])
    eigenvalues = mp.eigsy(factor.T * covariances[1] * factor, eigvals_only=True)
    trace = sum(covariance[i, i] for covariance in covariances for i in range(covariance.rows))
    return float(sum((x - y) ** 2 for x, y in zip(*means, strict=True)) + trace - 2 * sum(map(mp.sqrt, eigenvalues)))


@pytest.mark.parametrize(("n", "m"), [(300, 400), (64, 50), (65, 500)])
def test_distance_agrees_with_the_matrix_square_root_at_full_rank(n: int, m: int) -> None:
    a, b = features(n, 40, seed=0), features(m, 40, seed=1, shift=0.3)
    # The square root is the less accurate side: against 40 digits, 4e-8 here where singular values have 1e-14.
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


def test_distance_keeps_nearly_every_digit() -> None:
    a, b = features(30, 10, seed=0), features(25, 10, seed=1, shift=0.3)
    exact = with_40_digits(a, b)
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-12)
    assert frechet_distance_of_moments(feature_moments(a), feature_moments(b)) == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(20, 25), (20, 400), (400, 20)])
def test_distance_agrees_with_the_matrix_square_root_below_full_rank(n: int, m: int) -> None:
    a, b = features(n, 60, seed=0), features(m, 60, seed=1, shift=0.3)
    # The zero eigenvalues come back from the square root as roots of rounding errors.
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-4)


@pytest.mark.parametrize(
    ("n", "m", "width"), [(100, 100, 30), (30, 40, 60), (20, 200, 60), (200, 20, 60), (61, 61, 60)]
)
def test_features_and_their_moments_agree(n: int, m: int, width: int) -> None:
    a, b = features(n, width, seed=0), features(m, width, seed=1)
    by_moments = frechet_distance_of_moments(feature_moments(a), feature_moments(b))
    assert frechet_distance(a, b) == pytest.approx(by_moments, rel=1e-6)


def test_gaussians_with_one_set_of_axes_have_a_closed_form() -> None:
    width = 12
    axes = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    spreads = torch.linspace(0.1, 3, width, dtype=torch.float64), torch.linspace(2, 0.5, width, dtype=torch.float64)
    means = torch.zeros(width, dtype=torch.float64), torch.full((width,), 0.5, dtype=torch.float64)
    a, b = (
        Moments(mean_D=mean, covariance_DD=axes @ (spread**2).diag() @ axes.T)
        for mean, spread in zip(means, spreads, strict=True)
    )
    wanted = width * 0.25 + float((spreads[0] - spreads[1]).square().sum())
    assert frechet_distance_of_moments(a, b) == pytest.approx(wanted, rel=1e-12)


def test_scaled_and_shifted_copy_has_a_closed_form() -> None:
    a = features(20, 50, seed=0).double()
    b = 3 * a + 1
    # Covariances C and 9 C: tr(C + 9 C - 2 * 3 C) = 4 tr(C).
    wanted = float((b.mean(dim=0) - a.mean(dim=0)).square().sum() + 4 * a.var(dim=0).sum())
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("count", [10, 100])
def test_equal_sets_are_at_distance_zero_and_never_below(count: int) -> None:
    a = features(count, 30, seed=0)
    assert 0 <= frechet_distance(a, a.flip(0)) < 1e-6


def test_distance_is_symmetric() -> None:
    a, b = features(20, 30, seed=0), features(200, 30, seed=1)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_float32_features_are_summed_in_float64() -> None:
    a, b = features(200, 10, seed=0, shift=1e4), features(200, 10, seed=1, shift=1e4)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(a.double() - 1e4, b.double() - 1e4), rel=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("count", [10, 100])
def test_features_that_are_not_finite_are_refused(value: float, count: int) -> None:
    bad = features(count, 30, seed=0)
    bad[2, 3] = value
    for pair in ((bad, features(50, 30, seed=1)), (features(50, 30, seed=1), bad)):
        with pytest.raises(MetricError, match=f"1 of the {count} rows of features_"):
            frechet_distance(*pair)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 4), "at least 2 images each, but features_a_ND holds 1"),
        (torch.zeros(5), "floating-point matrix"),
        (torch.zeros(5, 4, dtype=torch.int64), "floating-point matrix"),
        (torch.zeros(5, 3), "same number of features, but got 3 and 4"),
    ],
)
def test_bad_features_are_refused(bad: Tensor, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        frechet_distance(bad, torch.zeros(5, 4))


def test_moments_check_themselves() -> None:
    mean, covariance = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for wrong in ((mean, covariance[:2]), (mean.float(), covariance), (mean, covariance / 0)):
        with pytest.raises(MetricError):
            Moments(mean_D=wrong[0], covariance_DD=wrong[1])
    with pytest.raises(MetricError, match="one width, but got 3 and 2"):
        frechet_distance_of_moments(
            Moments(mean_D=mean, covariance_DD=covariance), Moments(mean_D=mean[:2], covariance_DD=covariance[:2, :2])
        )


def weighted_distance(a: Tensor, b: Tensor, *, weights_M: Tensor) -> float:
    """The distance when the images of b count by weights that sum to 1 (equal ones give `frechet_distance`)."""
    rows = b.double()
    mean_D = weights_M @ rows
    centred_ND = rows - mean_D
    scale = len(b) / (len(b) - 1)
    moments = Moments(mean_D=mean_D, covariance_DD=scale * centred_ND.T @ (weights_M[:, None] * centred_ND))
    return frechet_distance_of_moments(feature_moments(a), moments)


@pytest.mark.parametrize(("n", "m", "width"), [(40, 50, 12), (30, 24, 60), (20, 90, 60)])
def test_an_influence_is_the_derivative_in_the_weight_of_its_image(n: int, m: int, width: int) -> None:
    a, b = features(n, width, seed=0), features(m, width, seed=1, shift=0.3)
    value, influence_a_N, influence_b_M = frechet_distance_with_influences(a, b)
    assert value == pytest.approx(frechet_distance(a, b), rel=1e-12)
    step, equal_M = 1e-4, torch.full((m,), 1 / m, dtype=torch.float64)
    for index in range(4):
        # Towards one image alone, as weights that sum to 1 must move.
        towards_M = -equal_M / m
        towards_M[index] += 1 / m
        sides = [weighted_distance(a, b, weights_M=equal_M + sign * step * towards_M) for sign in (1, -1)]
        slope = (sides[0] - sides[1]) / (2 * step)
        assert float(influence_b_M[index]) == pytest.approx(slope, rel=2e-3, abs=1e-5 * value)
    swapped = frechet_distance_with_influences(b, a)
    torch.testing.assert_close(influence_a_N, swapped[2], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(influence_b_M, swapped[1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("n", "m", "width", "too_wide"), [(60, 90, 10, 1.25), (40, 40, 80, 1.6)])
def test_influences_give_the_spread_over_new_draws(n: int, m: int, width: int, too_wide: float) -> None:
    values, variances = [], []
    for seed in range(150):
        a, b = features(n, width, seed=2 * seed), features(m, width, seed=2 * seed + 1, shift=1.0)
        value, influence_a_N, influence_b_M = frechet_distance_with_influences(a, b)
        values.append(value)
        variances.append(float(influence_a_N.square().sum() + influence_b_M.square().sum()))
    spread = torch.tensor(values).std().item()
    # 150 draws know a standard deviation to 6%. With fewer images than features the distance bends within one draw's
    # reach, and the error is told too wide rather than too narrow.
    assert 0.85 * spread < (sum(variances) / len(variances)) ** 0.5 < too_wide * spread
