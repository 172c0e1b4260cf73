"""Kernel distance (KID) between two sets of features, in float64: the squared maximum mean discrepancy, unbiased.

    mean of k(a, a') over pairs of a + mean of k(b, b') over pairs of b - 2 mean of k(a, b),  k(x, y) = (x.y / D + 1)^3

Source: Binkowski et al., "Demystifying MMD GANs", sec. 4 and 4.3. Deliberate difference: the published KID is a mean
over random subsets of 1,000 images, with their spread as its error; here all pairs count once, and the error is a
jackknife's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.checks import check_pair

# Rows of a block of the kernel matrix: enough to keep a matrix product busy, and memory linear in the number of images.
_BLOCK = 512


def kernel_distance(features_a_ND: Tensor, features_b_MD: Tensor) -> float:
    """The kernel distance between two sets of features (at least 2 each; the sets may differ in size).

    Its expectation is zero for sets of one distribution, at any size: it may fall below zero.
    Raises: MetricError for features that are not finite, too few, or of unequal width.
    """
    return _kernel_sums(features_a_ND, features_b_MD).distance


def kernel_distance_with_influences(features_a_ND: Tensor, features_b_MD: Tensor) -> tuple[float, Tensor, Tensor]:
    """The kernel distance, and how far every image of a (N) and of b (M) moves it, float64.

    The squared influences of a set sum to its delete-one jackknife variance, here in closed form. For sets of nearly
    one distribution the standard error is too large, by up to sqrt(2): what only pairs of images explain counts for
    both images.
    Raises: MetricError as `kernel_distance`, and for sets of 2 images, of which none can be left out.
    """
    sums = _kernel_sums(features_a_ND, features_b_MD)
    for where, within in (("features_a_ND", sums.within_a_N), ("features_b_MD", sums.within_b_M)):
        if len(within) < 3:
            raise MetricError(
                f"a jackknife leaves one image out and needs 3 or more in each set, but {where} holds {len(within)}; "
                "add images, or use kernel_distance, which gives no standard error"
            )
    influence_a_N = _influences(sums.within_a_N, sums.across_a_N, num_others=len(sums.within_b_M))
    influence_b_M = _influences(sums.within_b_M, sums.across_b_M, num_others=len(sums.within_a_N))
    return sums.distance, influence_a_N, influence_b_M


@dataclass(frozen=True, eq=False, kw_only=True)
class _KernelSums:
    """For every image the sum of its kernel values with the others of its own set, and with all of the other set."""

    within_a_N: Tensor
    within_b_M: Tensor
    across_a_N: Tensor
    across_b_M: Tensor

    @property
    def distance(self) -> float:
        n, m = len(self.within_a_N), len(self.within_b_M)
        within = self.within_a_N.sum() / (n * (n - 1)) + self.within_b_M.sum() / (m * (m - 1))
        return float(within - 2 * self.across_a_N.sum() / (n * m))


def _kernel_sums(features_a_ND: Tensor, features_b_MD: Tensor) -> _KernelSums:
    check_pair(features_a_ND, features_b_MD)
    a_ND, b_MD = (features.detach().to("cpu", torch.float64) for features in (features_a_ND, features_b_MD))
    across_a_N, across_b_M = _sums_across(a_ND, b_MD)
    return _KernelSums(
        within_a_N=_sums_within(a_ND), within_b_M=_sums_within(b_MD), across_a_N=across_a_N, across_b_M=across_b_M
    )


def _sums_within(features_ND: Tensor) -> Tensor:
    sums_N = torch.zeros(len(features_ND), dtype=torch.float64)
    for start in range(0, len(features_ND), _BLOCK):
        stop = start + _BLOCK
        # The kernel is symmetric: what lies below the diagonal is summed along the columns of what lies above.
        block = _kernel(features_ND[start:stop], features_ND[start:])
        block.fill_diagonal_(0)
        sums_N[start:stop] += block.sum(dim=1)
        sums_N[stop:] += block[:, _BLOCK:].sum(dim=0)
    return sums_N


def _sums_across(a_ND: Tensor, b_MD: Tensor) -> tuple[Tensor, Tensor]:
    sums_a_N, sums_b_M = (torch.zeros(len(features), dtype=torch.float64) for features in (a_ND, b_MD))
    for start in range(0, len(a_ND), _BLOCK):
        block = _kernel(a_ND[start : start + _BLOCK], b_MD)
        sums_a_N[start : start + _BLOCK] = block.sum(dim=1)
        sums_b_M += block.sum(dim=0)
    return sums_a_N, sums_b_M


def _kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    base = (x_ND @ y_MD.T).div_(x_ND.shape[1]).add_(1)
    return base * base.square()


def _influences(within_N: Tensor, across_N: Tensor, *, num_others: int) -> Tensor:
    """Mean of the leave-one-out distances minus each of them, scaled to the jackknife's variance.

    Without image i, its own sum leaves the within-set total twice (as row and as column) and the cross total once.
    """
    n = len(within_N)
    without_N = -2 * within_N / ((n - 1) * (n - 2)) + 2 * across_N / ((n - 1) * num_others)
    influences_N: Tensor = (without_N.mean() - without_N) * ((n - 1) / n) ** 0.5
    return influences_N
