"""Real images on both sides of a distance: what generated images are measured against, and what real ones come to."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.evaluation.feature_set import FeatureSet
from autopv.metrics.estimate import Estimate
from autopv.metrics.frechet import frechet_distance_of_moments
from autopv.metrics.metric import estimate_of_features
from autopv.metrics.neighbours import Neighbourhoods, neighbourhoods
from autopv.metrics.selection import evenly

REFERENCE, TRAIN = "reference", "train"
# The published choice for density and coverage.
_NEIGHBOURS = 5
# Two on a side are the least that have a spread.
_LEAST_DIFFERENT = 4
# Rows that are held at once: beyond, a Fréchet distance comes from moments, and pairs of images are an even selection.
MAX_ROWS = 10_000
# Disjoint draws over which a distance is averaged; more no longer help, since the reference stays one.
MAX_DRAWS = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fold:
    """Rows of the reference, and all rows of `other` (a set's name) that may stand in for generated images."""

    reference_rows: Tensor
    other: str
    other_rows: Tensor


def at_most(rows: Tensor) -> Tensor:
    """The rows, or an even selection of MAX_ROWS of them."""
    return rows if len(rows) <= MAX_ROWS else rows[evenly(len(rows), count=MAX_ROWS)]


class Yardstick:
    """Distances from the real images, at one n for all generated sets, and the floor at that n.

    num_images: real images on the reference's side. num_generated: images on the other side, generated or, for the
    floor, real. With training images those are the floor's other side; else the reference is halved, each half serves
    as reference once, and distances are means of both.
    """

    def __init__(
        self,
        reference: FeatureSet,
        train: FeatureSet | None,
        *,
        generated: Sequence[FeatureSet],
        num_images: int | None = None,
        seed: int = 0,
    ) -> None:
        self._sets = {REFERENCE: reference} | ({} if train is None else {TRAIN: train})
        _check_alike([*self._sets.values(), *generated])
        if train is None:
            sides = _halves(reference, seed=seed)
            folds = [(REFERENCE, sides[0], sides[1]), (REFERENCE, sides[1], sides[0])]
        else:
            sides = [torch.arange(len(reference)), torch.arange(len(train))]
            folds = [(TRAIN, sides[0], sides[1])]
        fewest = min([len(sides[1]), *map(len, generated)])
        if num_images is not None and not 2 <= num_images <= min(len(sides[0]), fewest):
            raise MetricError(
                f"2 <= n <= {min(len(sides[0]), fewest)} must hold for these sets"
                + ("" if train is not None else " (without training images the reference is halved)")
                + f", but got n = {num_images}"
            )
        self.num_images = num_images or len(sides[0])
        self.num_generated = num_images or fewest
        self._folds = [
            _Fold(
                reference_rows=one[evenly(len(one), count=self.num_images)],
                other=name,
                other_rows=two,
            )
            for name, one, two in folds
        ]

    @property
    def is_halved(self) -> bool:
        """Whether the reference also plays the part of the training images."""
        return TRAIN not in self._sets

    @property
    def held_out(self) -> tuple[FeatureSet, Tensor]:
        """Real images that no generator is known to have seen, as a set and its rows: the reference, or half of it."""
        return self._sets[REFERENCE], self._folds[0].reference_rows

    @property
    def other_real(self) -> tuple[FeatureSet, Tensor]:
        """Real images beside those: all the training images, or the other half."""
        fold = self._folds[0]
        return self._sets[fold.other], fold.other_rows

    def floor(self, distance: str) -> Estimate:
        """The distance (`fd` or `kid`) between real images: what a perfect generator would come to."""
        return Estimate.mean(
            [
                self._estimate(fold, self._sets[fold.other], self._draws(fold.other_rows), fold.other, distance)
                for fold in self._folds
            ]
        )

    def distance(self, generated: FeatureSet, *, name: str, distance: str) -> Estimate:
        """The distance of generated images, averaged over disjoint draws where there are more than `num_generated`."""
        draws, name = self._draws(torch.arange(len(generated))), _generated(name)
        return Estimate.mean([self._estimate(fold, generated, draws, name, distance) for fold in self._folds])

    def floor_neighbourhoods(self) -> Neighbourhoods:
        """Precision, recall, density and coverage of real images in the place of generated ones."""
        fold = self._folds[0]
        rows = fold.other_rows[evenly(len(fold.other_rows), count=self.num_generated)]
        return self._neighbourhoods(self._sets[fold.other], rows)

    def neighbourhoods(self, generated: FeatureSet) -> Neighbourhoods:
        """Precision, recall, density and coverage of `num_generated` of the generated images.

        Without errors: the radii are drawn as well, and errors that took them as given would be several times too small
        (experiments/metric_noise).
        """
        return self._neighbourhoods(generated, evenly(len(generated), count=self.num_generated))

    def _draws(self, rows: Tensor) -> list[Tensor]:
        """Disjoint draws of `num_generated` rows each, as many as there are, up to MAX_DRAWS."""
        num_draws = min(MAX_DRAWS, len(rows) // self.num_generated)
        chosen = rows[evenly(len(rows), count=num_draws * self.num_generated)]
        # Dealt out in turn: a sorted folder is in every draw alike.
        return [chosen[first::num_draws] for first in range(num_draws)]

    def _neighbourhoods(self, other: FeatureSet, rows: Tensor) -> Neighbourhoods:
        reference, reference_rows = self.held_out
        used, reference_used = at_most(rows), at_most(reference_rows)
        return neighbourhoods(
            reference.rows(reference_used),
            other.rows(used),
            num_neighbours=min(_NEIGHBOURS, len(used) - 1, len(reference_used) - 1),
        )

    def _estimate(self, fold: _Fold, other: FeatureSet, draws: Sequence[Tensor], name: str, distance: str) -> Estimate:
        reference = self._sets[REFERENCE]
        reference_rows = at_most(fold.reference_rows)
        real_ND = reference.rows(reference_rows)
        beyond = distance == "fd" and max(len(fold.reference_rows), *map(len, draws)) > MAX_ROWS
        real_moments = reference.moments(fold.reference_rows) if beyond else None
        estimates = []
        for rows in draws:
            used = at_most(rows)
            value, real_influence, other_influence = estimate_of_features(real_ND, other.rows(used), distance=distance)
            if real_moments is not None:
                value = frechet_distance_of_moments(real_moments, other.moments(rows))
            estimate = Estimate(
                value, {REFERENCE: _scattered(real_influence, reference_rows, fold.reference_rows, size=len(reference))}
            )
            # In two steps, since a halved reference is on both sides.
            estimates.append(estimate + Estimate(0.0, {name: _scattered(other_influence, used, rows, size=len(other))}))
        return Estimate.mean(estimates)


def _generated(name: str) -> str:
    """A generated set's name among influences: a folder may be called `train` or `reference` too."""
    return f"generated {name}"


def _scattered(influence_n: Tensor, used: Tensor, rows: Tensor, *, size: int) -> Tensor:
    """Influences of the used rows, scaled to what all `rows` would show, in a vector over the whole set."""
    whole = torch.zeros(size, dtype=torch.float64)
    whole[used] = influence_n.to(torch.float64) * (len(used) / len(rows)) ** 0.5
    return whole


def _halves(features: FeatureSet, *, seed: int) -> list[Tensor]:
    """The rows in two halves with the classes in proportion; exact copies stay together, or the floor would sink."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(features.pixel_digests):
        first.setdefault(digest, row)

    def rank(digest: bytes) -> tuple[str, bytes]:
        label = features.classes[first[digest]] if features.classes is not None else ""
        return label, hashlib.sha256(f"{seed}".encode() + digest).digest()

    side = {digest: place % 2 for place, digest in enumerate(sorted(first, key=rank))}
    sides = torch.tensor([side[digest] for digest in features.pixel_digests])
    halves = [(sides == number).nonzero().flatten() for number in (0, 1)]
    if len(first) < _LEAST_DIFFERENT:
        raise MetricError(
            f"the reference {features.label!r} must hold at least {_LEAST_DIFFERENT} different images to be halved, "
            f"but has {len(first)} among {len(features)}; add images, or name training images"
        )
    shorter = min(map(len, halves))
    return [half[evenly(len(half), count=shorter)] for half in halves]


def _check_alike(sets: Sequence[FeatureSet]) -> None:
    for one in sets[1:]:
        if one.identity != sets[0].identity:
            raise MetricError(
                "features may be compared only when extractor, precision and sizes are the same, but those of "
                f"{sets[0].label!r} are {sets[0].identity} and those of {one.label!r} {one.identity}; extract them anew"
            )
