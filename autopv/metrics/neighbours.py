"""Precision, recall, density and coverage: how two sets of features lie among each other's nearest neighbours.

The neighbourhood of an image is the open ball that reaches to its k-th nearest other image of the same set.
Source: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models"; Naeem et al.,
"Reliable Fidelity and Diversity Metrics for Generative Models". On ties (copies, equal distances) as Naeem's program
`prdc`: a distance that equals the radius is outside.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.checks import check_pair

# Rows of a block of the distance matrix: enough to keep a matrix product busy, memory linear in the number of images.
_BLOCK = 512
# Pairs whose differences are held at once.
_EXACT_PAIRS = 2048
# Share of a block's pairs beyond which all of them together are faster by differences than the chosen ones alone.
_DENSE = 1 / 3


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbourhoods:
    """What each generated (M) and each real image (N) adds to the four figures, float64; the figures are the means.

    precision_M: 1 where the image lies in the neighbourhood of some real image. density_M: in how many, over k.
    recall_N: 1 where the image lies in the neighbourhood of some generated image.
    coverage_N: 1 where some generated image lies in this image's neighbourhood.
    """

    precision_M: Tensor
    recall_N: Tensor
    density_M: Tensor
    coverage_N: Tensor

    @property
    def precision(self) -> float:
        """Share of the generated images that look real, in [0, 1]."""
        return float(self.precision_M.mean())

    @property
    def recall(self) -> float:
        """Share of the real images that the generated ones reach around, in [0, 1]; outliers swell it."""
        return float(self.recall_N.mean())

    @property
    def density(self) -> float:
        """How densely the real images surround the generated ones: about 1 for one distribution, and may exceed it."""
        return float(self.density_M.mean())

    @property
    def coverage(self) -> float:
        """Share of the real images with a generated one close by, in [0, 1]."""
        return float(self.coverage_N.mean())


def neighbourhoods(real_ND: Tensor, generated_MD: Tensor, *, num_neighbours: int = 5) -> Neighbourhoods:
    """Precision, recall, density and coverage of the generated features, image by image.

    All four depend on the sizes of both sets: compare at equal sizes only.
    Raises: MetricError for features that are not finite or of unequal width, or for too few to have the neighbours.
    """
    check_pair(real_ND, generated_MD)
    smaller = min(len(real_ND), len(generated_MD))
    if not 1 <= num_neighbours < smaller:
        raise MetricError(
            "1 <= num_neighbours < number of images must hold in both sets, but got "
            f"num_neighbours={num_neighbours} with {len(real_ND)} real and {len(generated_MD)} generated images; "
            f"add images, or pass num_neighbours={smaller - 1} or fewer"
        )
    pairs = _Pairs(real_ND, generated_MD)
    real_radii_N = _radii(_Pairs(real_ND, real_ND), num_neighbours)
    generated_radii_M = _radii(_Pairs(generated_MD, generated_MD), num_neighbours)
    num_around_M = torch.zeros(len(generated_MD), dtype=torch.float64)
    recall_N, coverage_N = (torch.zeros(len(real_ND), dtype=torch.float64) for _ in range(2))
    for rows, squares in pairs.blocks():
        in_real = pairs.below(rows, squares, real_radii_N[rows, None])
        in_generated = pairs.below(rows, squares, generated_radii_M[None])
        num_around_M += in_real.sum(dim=0)
        coverage_N[rows] = in_real.any(dim=1).double()
        recall_N[rows] = in_generated.any(dim=1).double()
    return Neighbourhoods(
        precision_M=(num_around_M > 0).double(),
        recall_N=recall_N,
        density_M=num_around_M / num_neighbours,
        coverage_N=coverage_N,
    )


def nearest_neighbours(features_ND: Tensor, others_MD: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of the features: distance (float64, exactly 0 for a copy) and index of the nearest of the others.

    Raises: MetricError for features that are not finite, too few, or of unequal width.
    """
    check_pair(features_ND, others_MD)
    pairs = _Pairs(features_ND, others_MD)
    nearest = [pairs.kth(rows, squares, 1) for rows, squares in pairs.blocks()]
    distances, indices = zip(*nearest, strict=True)
    return torch.cat(distances), torch.cat(indices)


def _radii(pairs: "_Pairs", num_neighbours: int) -> Tensor:
    """Each image's distance to its k-th nearest other image, for pairs of a set with itself."""
    radii = []
    for rows, squares in pairs.blocks():
        squares[:, rows].fill_diagonal_(torch.inf)
        radii.append(pairs.kth(rows, squares, num_neighbours)[0])
    return torch.cat(radii)


class _Pairs:
    """Distances between two sets: by matrix product for almost all pairs, by differences where rounding would decide.

    A matrix product is ten times as fast, but leaves copies at distances above 0 and breaks ties at random. Its error
    has a bound, so only the pairs within that bound of the distance they are compared with are computed again.
    """

    def __init__(self, rows_ND: Tensor, columns_MD: Tensor) -> None:
        self._rows_ND, self._columns_MD = (x.detach().to("cpu", torch.float64) for x in (rows_ND, columns_MD))
        # Distances do not depend on the origin, their rounding does.
        origin_D = self._columns_MD.mean(dim=0)
        self._centred_rows_ND, self._centred_columns_MD = self._rows_ND - origin_D, self._columns_MD - origin_D
        self._row_squares_N, self._column_squares_M = (
            x.square().sum(dim=1) for x in (self._centred_rows_ND, self._centred_columns_MD)
        )
        # A sum of D products is wrong by at most D eps times its size, here (|x| + |y|)^2, and a few roundings follow.
        # Twofold for a difference of two, and twofold again for the exact distances, which are rounded too.
        widest = float(self._row_squares_N.max().sqrt() + self._column_squares_M.max().sqrt())
        self._slack = 4 * (rows_ND.shape[1] + 8) * torch.finfo(torch.float64).eps * widest**2

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Every row once: (rows, squared distances of these rows from all columns, right within half the slack)."""
        for start in range(0, len(self._rows_ND), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(self._rows_ND)))
            norms = self._row_squares_N[rows, None] + self._column_squares_M
            yield rows, torch.addmm(norms, self._centred_rows_ND[rows], self._centred_columns_MD.T, alpha=-2)

    def below(self, rows: slice, squares: Tensor, radii: Tensor) -> Tensor:
        """Whether each distance is less than its radius (of any shape that expands to the block's)."""
        gaps = squares - radii.square()
        unsure = gaps.abs() <= self._slack
        below = gaps < 0
        below[unsure] = self._exact(rows, unsure) < radii.expand_as(squares)[unsure]
        return below

    def kth(self, rows: slice, squares: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k-th smallest distance of each row, and the column where it is."""
        gaps = squares - squares.kthvalue(k, dim=1, keepdim=True).values
        unsure = gaps.abs() <= self._slack
        # What is surely nearer or surely farther only counts.
        ranked = torch.where(gaps < 0, -torch.inf, torch.inf).to(squares.dtype)
        ranked[unsure] = self._exact(rows, unsure)
        distances, columns = ranked.kthvalue(k, dim=1)
        return distances, columns

    def _exact(self, rows: slice, chosen: Tensor) -> Tensor:
        """The chosen distances of a block, in row order; equal differences give equal bits."""
        rows_BD = self._rows_ND[rows]
        if chosen.count_nonzero() > _DENSE * chosen.numel():
            return _distances(rows_BD, self._columns_MD)[chosen]
        pairs = zip(*(torch.split(x, _EXACT_PAIRS) for x in chosen.nonzero(as_tuple=True)), strict=True)
        return torch.cat([_distances(rows_BD[i, None], self._columns_MD[j, None]).flatten() for i, j in pairs])


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
