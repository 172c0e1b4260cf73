"""Distances within each class: does every kind of image look right, and do the kinds come in their right shares.

A generator may be near to the real images as a whole and far from a rare class, which is often the one that matters.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.checks import check_pair
from autopv.metrics.estimate import Estimate
from autopv.metrics.frechet import frechet_distance
from autopv.metrics.kernel import kernel_distance_with_influences
from autopv.metrics.selection import evenly

MIN_FRECHET_IMAGES = 64
"""A class with fewer images on any side gets the kernel distance alone. Covariances of n images have rank n - 1 of the
extractor's thousand or two, so below this the floor is nearly all of the Fréchet distance; the kernel distance has no
bias at any n, and its standard error tells what it is worth."""
MIN_KERNEL_IMAGES = 4
"""Below this an unbiased estimate and its jackknife rest on two or three images."""


@dataclass(frozen=True, kw_only=True)
class ClassKernel:
    """The kernel distance within one class, unbiased, and how much it would vary with other images."""

    kernel: float
    standard_error: float
    num_reference: int
    num_generated: int


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassDistance:
    """One class on both sides.

    kernel: unbiased, from all images of the class; its influences run over the whole sets, zero for other classes, so
    differences between generated sets and means over classes stay paired. frechet: with `num_frechet` images on each
    side; None for a small class. frechet_floor: the same between the two real sets.
    """

    name: str
    num_reference: int
    num_generated: int
    kernel: Estimate
    num_frechet: int
    frechet: float | None = None
    frechet_floor: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class ByClass:
    """The distances of the classes that both sides have, in order of their names, and what could not be compared.

    only_reference, only_generated: classes of one side. too_few: shared classes of fewer than MIN_KERNEL_IMAGES images.
    share_distance: total variation between the shares of classes, 0 where they are equal, 1 where no class is shared.
    """

    distances: tuple[ClassDistance, ...]
    only_reference: tuple[str, ...]
    only_generated: tuple[str, ...]
    too_few: tuple[str, ...]
    share_distance: float


def kernel_by_class(
    reference_ND: Tensor, generated_MD: Tensor, *, reference_classes: Sequence[str], generated_classes: Sequence[str]
) -> dict[str, ClassKernel]:
    """The kernel distance of each class that has MIN_KERNEL_IMAGES images on both sides, by its name.

    Raises: MetricError for features that are unfit, or not one class for each image.
    """
    check_pair(reference_ND, generated_MD)
    reference = _rows_by_class(reference_ND, reference_classes, where="reference_classes")
    generated = _rows_by_class(generated_MD, generated_classes, where="generated_classes")
    found = {}
    for name in sorted(reference.keys() & generated.keys()):
        real, made = reference[name], generated[name]
        if min(len(real), len(made)) >= MIN_KERNEL_IMAGES:
            value, of_real, of_made = kernel_distance_with_influences(reference_ND[real], generated_MD[made])
            found[name] = ClassKernel(
                kernel=value,
                standard_error=Estimate(value, {"reference": of_real, "generated": of_made}).standard_error,
                num_reference=len(real),
                num_generated=len(made),
            )
    return found


def by_class(
    reference_ND: Tensor,
    generated_MD: Tensor,
    *,
    reference_classes: Sequence[str],
    generated_classes: Sequence[str],
    label: str,
    train_KD: Tensor | None = None,
    train_classes: Sequence[str] = (),
) -> ByClass:
    """The generated features against the real ones, class by class.

    label: names the generated set in the influences; the real one is "reference". train: other real images, for the
    floor of the Fréchet distance; a class that has them is compared at the smallest n of the three.
    Raises: MetricError for features that are unfit, or not one class for each image.
    """
    check_pair(reference_ND, generated_MD)
    reference = _rows_by_class(reference_ND, reference_classes, where="reference_classes")
    generated = _rows_by_class(generated_MD, generated_classes, where="generated_classes")
    train: dict[str, Tensor] = {}
    if train_KD is not None:
        check_pair(reference_ND, train_KD)
        train = _rows_by_class(train_KD, train_classes, where="train_classes")
    shared = sorted(reference.keys() & generated.keys())
    measured = [name for name in shared if min(len(reference[name]), len(generated[name])) >= MIN_KERNEL_IMAGES]
    distances = []
    for name in measured:
        reference_rows, generated_rows = reference[name], generated[name]
        sides = [reference_ND[reference_rows], generated_MD[generated_rows]]
        if train_KD is not None and name in train:
            sides.append(train_KD[train[name]])
        num_frechet = min(map(len, sides))
        frechet = floor = None
        if num_frechet >= MIN_FRECHET_IMAGES:
            real_nD, made_nD, *floor_nD = (side[evenly(len(side), count=num_frechet)] for side in sides)
            frechet = frechet_distance(real_nD, made_nD)
            floor = frechet_distance(real_nD, floor_nD[0]) if floor_nD else None
        value, influence_reference, influence_generated = kernel_distance_with_influences(sides[0], sides[1])
        influences = {
            "reference": _spread(influence_reference, reference_rows, count=len(reference_ND)),
            label: _spread(influence_generated, generated_rows, count=len(generated_MD)),
        }
        distances.append(
            ClassDistance(
                name=name,
                num_reference=len(reference_rows),
                num_generated=len(generated_rows),
                kernel=Estimate(value, influences),
                num_frechet=num_frechet,
                frechet=frechet,
                frechet_floor=floor,
            )
        )
    return ByClass(
        distances=tuple(distances),
        only_reference=tuple(sorted(reference.keys() - generated.keys())),
        only_generated=tuple(sorted(generated.keys() - reference.keys())),
        too_few=tuple(name for name in shared if name not in measured),
        share_distance=share_distance(reference_classes, generated_classes),
    )


def share_distance(a_classes: Sequence[str], b_classes: Sequence[str]) -> float:
    """The total variation between the shares of the classes in two sets that are not empty.

    >>> share_distance(["good", "good", "crack", "hole"], ["good", "crack"])
    0.25
    """
    a, b = Counter(a_classes), Counter(b_classes)
    return sum(abs(a[name] / len(a_classes) - b[name] / len(b_classes)) for name in sorted(a.keys() | b.keys())) / 2


def _rows_by_class(features_ND: Tensor, classes: Sequence[str], *, where: str) -> dict[str, Tensor]:
    if len(classes) != len(features_ND):
        raise MetricError(f"{where} must be one per image ({len(features_ND)}), but got {len(classes)}")
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(classes):
        rows.setdefault(name, []).append(row)
    return {name: torch.tensor(members) for name, members in rows.items()}


def _spread(influence_n: Tensor, rows: Tensor, *, count: int) -> Tensor:
    """The influences of some images as those of the whole set."""
    influence_N = torch.zeros(count, dtype=torch.float64)
    influence_N[rows] = influence_n.to(torch.float64)
    return influence_N
