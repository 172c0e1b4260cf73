from collections.abc import Callable

import numpy as np
import pytest
import torch
from cleanfid import fid
from tensor_sizes import LargestTensor
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics import kernel
from autopv.metrics.kernel import kernel_distance, kernel_distance_with_influences


def features(count: int, width: int, *, seed: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)


def plain_loop(a: Tensor, b: Tensor) -> float:
    """The U-statistic, pair by pair."""

    def k(x: Tensor, y: Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3

    within = [[k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j] for s in (a, b)]
    across = [k(x, y) for x in a for y in b]
    return float(np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across))


def mean_kernel(width: int, *, means: tuple[float, float], spreads: tuple[float, float]) -> float:
    """E k(x, y) for independent x ~ N(means[0], spreads[0]^2 I) and y likewise, every coordinate alike.

    Given y, x.y is normal with mean u = mean_x.y and variance spread_x^2 |y|^2; u in turn is normal with mean
    mean_x.mean_y and variance spread_y^2 |mean_x|^2.
    """
    (mean_x, mean_y), (var_x, var_y) = means, (spreads[0] ** 2, spreads[1] ** 2)
    dot, var_u, length = width * mean_x * mean_y, var_y * width * mean_x**2, width * mean_y**2 + width * var_y
    first = dot
    second = dot**2 + var_u + var_x * length
    third = dot**3 + 3 * dot * var_u + 3 * var_x * dot * (length + 2 * var_y)
    return third / width**3 + 3 * second / width**2 + 3 * first / width + 1


def closed_form(width: int, *, means: tuple[float, float], spreads: tuple[float, float]) -> float:
    within = (mean_kernel(width, means=(m, m), spreads=(s, s)) for m, s in zip(means, spreads, strict=True))
    return sum(within) - 2 * mean_kernel(width, means=means, spreads=spreads)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 4), (4, 9)])
def test_equals_the_plain_loop(n: int, m: int) -> None:
    a, b = features(n, 5, seed=0), features(m, 5, seed=1, mean=0.3)
    assert kernel_distance(a, b) == pytest.approx(plain_loop(a, b), rel=1e-12)


def test_equals_clean_fid_on_whole_sets_of_one_size() -> None:
    # clean-fid's estimator is the unbiased one too; of sets of two sizes it drops images until the sizes are equal.
    a, b = features(60, 16, seed=0), features(60, 16, seed=1, mean=0.2, spread=1.3)
    theirs = fid.kernel_distance(a.numpy(), b.numpy(), num_subsets=1, max_subset_size=60)
    assert kernel_distance(a, b) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.5, 1.0), (0.0, 1.4), (-0.4, 0.7)])
def test_its_mean_over_draws_is_the_closed_form_on_gaussians(mean: float, spread: float) -> None:
    width, draws = 4, 400
    values = torch.tensor(
        [
            kernel_distance(
                features(20, width, seed=2 * i, mean=0.2),
                features(30, width, seed=2 * i + 1, mean=0.2 + mean, spread=spread),
            )
            for i in range(draws)
        ]
    )
    wanted = closed_form(width, means=(0.2, 0.2 + mean), spreads=(1.0, spread))
    assert (wanted == pytest.approx(0, abs=1e-12)) == (mean == 0 and spread == 1)
    assert float(values.mean()) == pytest.approx(wanted, abs=4 * float(values.std()) / draws**0.5)


def jackknife(distance: Callable[[Tensor], float], images: Tensor) -> Tensor:
    """How far each image lifts the distance, by leaving it out; the squares sum to the jackknife's variance."""
    count = len(images)
    without = torch.tensor([distance(torch.cat([images[:i], images[i + 1 :]])) for i in range(count)]).double()
    return (without.mean() - without) * ((count - 1) / count) ** 0.5


@pytest.mark.parametrize(("n", "m"), [(3, 3), (12, 7)])
def test_influences_are_the_delete_one_jackknife(n: int, m: int) -> None:
    a, b = features(n, 5, seed=0), features(m, 5, seed=1, mean=0.3)
    value, influence_a, influence_b = kernel_distance_with_influences(a, b)
    assert value == kernel_distance(a, b)
    wanted_a, wanted_b = (
        jackknife(lambda kept: kernel_distance(kept, b), a),
        jackknife(lambda kept: plain_loop(a, kept), b),
    )
    torch.testing.assert_close((influence_a, influence_b), (wanted_a, wanted_b), rtol=1e-4, atol=1e-6)
    assert float(influence_a.sum()) == pytest.approx(0, abs=1e-12)


def test_images_that_make_a_set_another_one_have_the_largest_influence() -> None:
    a, b = features(40, 5, seed=0), features(40, 5, seed=1)
    a[:4] += 5
    assert set(kernel_distance_with_influences(a, b)[1].topk(4).indices.tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(("mean", "low", "high"), [(0.5, 0.85, 1.15), (0.0, 1.0, 1.6)])
def test_standard_error_is_the_spread_over_redraws(mean: float, low: float, high: float) -> None:
    values, variances = [], []
    for i in range(400):
        value, *influences = kernel_distance_with_influences(
            features(40, 6, seed=2 * i), features(60, 6, seed=2 * i + 1, mean=mean)
        )
        values.append(value)
        variances.append(sum(float(x.square().sum()) for x in influences))
    # Of one distribution (mean 0) the jackknife is known to be too wide, by up to sqrt(2).
    assert low < (np.mean(variances) / np.var(values)) ** 0.5 < high


def test_sets_may_differ_in_size_and_change_places() -> None:
    a, b = features(20, 8, seed=0), features(33, 8, seed=1, mean=0.5)
    value, influence_a, influence_b = kernel_distance_with_influences(a, b)
    swapped, first, second = kernel_distance_with_influences(b, a)
    assert swapped == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close((first, second), (influence_b, influence_a))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = features(23, 8, seed=0), features(40, 8, seed=1, mean=0.5)
    whole = kernel_distance_with_influences(a, b)
    for block in (1, 7, 23, 39):
        monkeypatch.setattr(kernel, "_BLOCK", block)
        torch.testing.assert_close(kernel_distance_with_influences(a, b), whole, rtol=1e-11, atol=1e-14)


def test_no_matrix_of_all_pairs_is_held() -> None:
    with LargestTensor() as largest:
        kernel_distance(features(2000, 2, seed=0), features(1500, 2, seed=1))
    assert largest.numel <= 512 * 2000


def test_float32_features_are_summed_in_float64() -> None:
    a, b = features(200, 10, seed=0, mean=30).float(), features(200, 10, seed=1, mean=30).float()
    assert kernel_distance(a, b) == kernel_distance(a.double(), b.double())


def test_copies_of_a_set_are_below_zero_because_no_image_is_compared_with_itself() -> None:
    a = features(30, 8, seed=0)
    assert kernel_distance(a, a) < 0
    assert kernel_distance(torch.ones(5, 4), torch.ones(3, 4)) == 0


def test_a_set_of_two_has_a_distance_but_no_jackknife() -> None:
    a, b = features(2, 4, seed=0), features(9, 4, seed=1)
    assert kernel_distance(a, b) == pytest.approx(plain_loop(a, b))
    with pytest.raises(MetricError, match="needs 3 or more in each set, but features_a_ND holds 2"):
        kernel_distance_with_influences(a, b)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 4), "at least 2 images each, but features_a_ND holds 1"),
        (torch.zeros(5), "floating-point matrix"),
        (torch.zeros(5, 4, dtype=torch.int64), "floating-point matrix"),
        (torch.zeros(5, 3), "same number of features, but got 3 and 4"),
        (torch.tensor([[0.0, torch.nan], [0, 0], [0, torch.inf]]), "2 of the 3 rows of features_a_ND"),
    ],
)
def test_bad_features_are_refused(bad: Tensor, message: str) -> None:
    for distance in (kernel_distance, kernel_distance_with_influences):
        with pytest.raises(MetricError, match=message):
            distance(bad, torch.zeros(5, 4))
