"""Memorisation: whether generated images lie nearer to the training images than real images do that were held out.

A generator that learnt the distribution draws images which are, for the training set, like held-out ones: the distance
of both to the nearest training image has one distribution. Its low tail and its ranks are tested, and the closest pairs
told.
"""

from dataclasses import dataclass

import torch
from scipy.stats import betabinom, rankdata, tiecorrect
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.checks import check_features
from autopv.metrics.neighbours import nearest_neighbours

# Of the features' length. An extractor's float32 rounding differs between batches by up to 3e-6 (lite0); one grey level
# in one pixel moves its features by more than 1e-5.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class ClosePair:
    """A generated image and its nearest training image, by index; ratio is to the median held-out distance."""

    generated: int
    train: int
    distance: float
    ratio: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Memorisation:
    """How near generated images (M) lie to training images, judged by held-out real images (K).

    distances_M, nearest_M: distance to the nearest training image, and its index; likewise for the held-out images.
    near_M: nearer than `threshold`, a low quantile of the held-out distances.
    expected_share: what `share_near` is on average for an honest generator, exact for this number of held-out images.
    p_value: probability of so many near images or more from an honest generator; it accounts for a threshold known from
    K images only.
    copying_z: the data-copying statistic C_T: standard normal if honest, far below 0 for copies, above 0 for images
    unlike the real ones. It looks at all images: a few copies among poor ones show in `p_value` alone.
    num_copies: generated images that equal a training image, but for the rounding of features.
    pairs: the closest first.
    """

    distances_M: Tensor
    nearest_M: Tensor
    held_out_distances_K: Tensor
    held_out_nearest_K: Tensor
    near_M: Tensor
    threshold: float
    expected_share: float
    p_value: float
    copying_z: float
    num_copies: int
    pairs: tuple[ClosePair, ...]

    @property
    def num_near(self) -> int:
        """How many generated images are nearer to a training image than the threshold."""
        return int(self.near_M.sum())

    @property
    def share_near(self) -> float:
        """Their share of the generated images."""
        return self.num_near / len(self.near_M)


def memorisation(
    generated_MD: Tensor, train_ND: Tensor, *, held_out_KD: Tensor, quantile: float = 0.05, num_pairs: int = 8
) -> Memorisation:
    """What the features say about memorised training images.

    The training images must be those the generator learnt from, the held-out ones of the same distribution and unseen.
    A high p-value from few images is no proof of honesty.
    Raises: MetricError for features that are not finite, too few or of unequal width, for a quantile outside (0, 1),
    and for held-out images of which half are copies of training images.
    Source: Meehan, Chaudhuri and Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", sec. 4.
    Deliberate difference: C_T over one cell, the whole space, because small sets leave too few images in each cell.
    """
    for where, features in (("generated_MD", generated_MD), ("train_ND", train_ND), ("held_out_KD", held_out_KD)):
        check_features(features, where)
    if not 0 < quantile < 1 or num_pairs < 0:
        raise MetricError(
            f"0 < quantile < 1 and num_pairs >= 0 must hold, but got quantile={quantile} and num_pairs={num_pairs}"
        )
    distances_M, nearest_M = nearest_neighbours(generated_MD, train_ND)
    held_out_distances_K, held_out_nearest_K = nearest_neighbours(held_out_KD, train_ND)
    typical = float(held_out_distances_K.median())
    rounding = _ROUNDING * float(train_ND.detach().double().norm(dim=1).median())
    if typical <= rounding:
        raise MetricError(
            "held-out images must differ from the training images, but at least half of the "
            f"{len(held_out_distances_K)} equal one; split the images anew, with duplicates on one side"
        )
    # A new image falls below the r-th smallest of K like ones with probability r / (K + 1): exact, whatever their law.
    num_ranks = len(held_out_distances_K) + 1
    rank = max(1, min(len(held_out_distances_K), round(quantile * num_ranks)))
    threshold = held_out_distances_K.kthvalue(rank).values
    near_M = distances_M < threshold
    return Memorisation(
        distances_M=distances_M,
        nearest_M=nearest_M,
        held_out_distances_K=held_out_distances_K,
        held_out_nearest_K=held_out_nearest_K,
        near_M=near_M,
        threshold=float(threshold),
        expected_share=rank / num_ranks,
        # That probability itself varies with the held-out draw as Beta(r, K + 1 - r), the count given it is binomial.
        p_value=float(betabinom.sf(int(near_M.sum()) - 1, len(near_M), rank, num_ranks - rank)),
        copying_z=_mann_whitney_z(distances_M, held_out_distances_K),
        num_copies=int((distances_M <= rounding).sum()),
        pairs=_closest(distances_M, nearest_M, typical=typical, num_pairs=num_pairs),
    )


def _mann_whitney_z(distances_M: Tensor, held_out_distances_K: Tensor) -> float:
    """The standardised number of (generated, held-out) pairs with the generated one farther; ties count half."""
    m, k = len(distances_M), len(held_out_distances_K)
    ranks = rankdata(torch.cat([distances_M, held_out_distances_K]).numpy())
    num_farther = float(ranks[:m].sum()) - m * (m + 1) / 2
    variance = m * k * (m + k + 1) / 12 * float(tiecorrect(ranks))
    # Without variance all distances are equal, and nothing speaks for or against copies.
    return (num_farther - m * k / 2) / variance**0.5 if variance > 0 else 0.0


def _closest(distances_M: Tensor, nearest_M: Tensor, *, typical: float, num_pairs: int) -> tuple[ClosePair, ...]:
    order = distances_M.argsort(stable=True)[:num_pairs].tolist()
    return tuple(
        ClosePair(
            generated=i, train=int(nearest_M[i]), distance=float(distances_M[i]), ratio=float(distances_M[i]) / typical
        )
        for i in order
    )
