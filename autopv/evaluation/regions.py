"""Whether the defect looks right, not only the background: features of crops around defects, and defect coverage.

Where both sides have masks, `defect_crops` gives the features of crops around the defects of each side, and any
distance between sets of features compares them. A generator usually paints no masks; then `defect_coverage` asks how
many real defects it can paint at all: a held-out real defect is covered when some crop of the generated images is as
near to it as the k-th nearest real training image with a defect is. That is the coverage of Naeem et al., "Reliable
Fidelity and Diversity Metrics for Generative Models", with two differences: the radius comes from other real defects,
and k is 1, since a wide radius takes in background too (textures, whole boxes: images without any defect covered 89%
for k = 5 and 42% for k = 1, where real images with defects covered 100% and 62%).

Such a share means little by itself: with enough crops some come near by chance. It is therefore stated between two
figures made from real images alone. The training images are dealt into two folds; one fold's defects give the radii,
and the other fold's images stand in for the generated ones: as they are (`yardstick`: what a perfect generator would
score), and without all crops that touch a defect (`background`: what a generator that paints no defects would score).
All three are stated for one number of images, m: from which of N images a defect is covered, the probability that m
of them drawn at random cover it follows exactly, so no images are wasted and no draw adds noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from scipy.ndimage import find_objects, label
from scipy.stats import hypergeom
from torch import Tensor

from autopv.data.tensors import to_float
from autopv.errors import MetricError
from autopv.evaluation.not_applicable import NotApplicable
from autopv.metrics.features import Extractor
from autopv.metrics.selection import evenly

MAX_PER_IMAGE = 3
"""Defects cropped of an image, the largest first: one image full of specks must not outweigh the others."""
MAX_CROPS = 8192
"""Grid crops of the generated images, and again of the training images: a bound of cost."""
# Half as wide again as the defect: its border against the background is what gives a painted defect away.
_EXTENT_FACTOR = 1.5
# Of the median box's side: background fills much of a whole box, and hides the defect's part in the features (textures,
# shares covered by 36 unseen real images and by 36 without defects: 0.46 and 0.34; with 0.4 of the side 0.59 and 0.40).
_COVERAGE_FACTOR = 0.5
# Of the image's side: smaller crops hold too few pixels for features of objects.
_MIN_SIDE = 1 / 8
# Crops turned into features, or compared, at once.
_CHUNK = 256
# An image with a larger share of crops that touch a defect has too few others to stand for an image without defects.
_MIN_HEALTHY = 0.5
# Fewer images without defects than this say too little, and lowering all figures to their number would cost too much.
_MIN_BACKGROUND_IMAGES = 10
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Box:
    """A square inside an image of a set."""

    image: int
    top: int
    left: int
    side_px: int

    @property
    def rows(self) -> slice:
        """Its rows of pixels."""
        return slice(self.top, self.top + self.side_px)

    @property
    def columns(self) -> slice:
        """Its columns of pixels."""
        return slice(self.left, self.left + self.side_px)


@dataclass(frozen=True, eq=False, kw_only=True)
class DefectCrops:
    """Features (N, D) of crops around defects, and where each was cut."""

    features_ND: Tensor
    boxes: tuple[Box, ...]

    @property
    def owner_of_each(self) -> Tensor:
        """The image of each crop."""
        return torch.tensor([box.image for box in self.boxes], dtype=torch.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class DefectCoverage:
    """For each held-out real defect how surely `num_images` images cover it; means over defects are the shares.

    covered_K, yardstick_K, background_K: probabilities of the generated images, of real training images, and of the
    latter's crops without defects; background_K is None where too few training images have those. Defects of one image
    (same `real_boxes[k].image`) are not independent. nearest_boxes: the generated crop nearest to each defect.
    """

    covered_K: Tensor
    yardstick_K: Tensor
    background_K: Tensor | None
    num_images: int
    side_px: int
    num_neighbours: int
    real_boxes: tuple[Box, ...]
    nearest_boxes: tuple[Box, ...]
    nearest_distance_K: Tensor


def defect_boxes(masks_NHW: Tensor, *, max_per_image: int = MAX_PER_IMAGE) -> tuple[Box, ...]:
    """A box around each defect (a connected part of a mask, diagonals included), the largest few of every image."""
    shape = (masks_NHW.shape[-2], masks_NHW.shape[-1])
    least = _least_side(shape)
    return tuple(
        defect.box(side_px=max(round(defect.extent * _EXTENT_FACTOR), least), shape=shape)
        for defect in _defects(masks_NHW, max_per_image=max_per_image)
    )


def grid_boxes(num_images: int, *, side_px: int, shape: tuple[int, int]) -> tuple[Box, ...]:
    """Boxes of this side that overlap by half and cover images of this shape, all of one image after the other."""
    tops, lefts = (_starts(length, side_px=side_px) for length in shape)
    return tuple(Box(n, top, left, side_px) for n in range(num_images) for top in tops for left in lefts)


def crop_features(images_NCHW: Tensor, boxes: Sequence[Box], *, extractor: Extractor) -> Tensor:
    """Features (boxes, D) of the crops of uint8 or float images."""
    rows: dict[int, Tensor] = {}
    # A batch holds crops of one size only.
    order = sorted(range(len(boxes)), key=lambda i: boxes[i].side_px)
    for batch in _batches(order, boxes):
        crops = torch.stack([images_NCHW[boxes[i].image, :, boxes[i].rows, boxes[i].columns] for i in batch])
        features_BD = extractor.features(to_float(crops) if crops.dtype == torch.uint8 else crops)
        rows.update(zip(batch, features_BD, strict=True))
    return torch.stack([rows[i] for i in range(len(boxes))]) if rows else torch.zeros(0, extractor.num_features)


def defect_crops(
    images_NCHW: Tensor, masks_NHW: Tensor, *, extractor: Extractor, max_per_image: int = MAX_PER_IMAGE
) -> DefectCrops:
    """The features of crops around the defects that the masks mark."""
    _check_alike(images_NCHW, masks_NHW)
    boxes = defect_boxes(masks_NHW, max_per_image=max_per_image)
    return DefectCrops(features_ND=crop_features(images_NCHW, boxes, extractor=extractor), boxes=boxes)


def defect_coverage(
    generated_NCHW: Tensor,
    *,
    train_NCHW: Tensor,
    train_masks_NHW: Tensor,
    held_out_NCHW: Tensor,
    held_out_masks_NHW: Tensor,
    extractor: Extractor,
    train_groups: Sequence[str] | None = None,
    num_neighbours: int = 1,
    max_crops: int = MAX_CROPS,
) -> DefectCoverage | NotApplicable:
    """How many of the held-out real images' defects the generated images hold the like of (see the module).

    All crops have one side, half the median of the training defects' boxes, so that a defect is seen at one scale.
    train_groups: images of one object share a group, which is dealt to one fold. max_crops bounds the cost: with more
    grid crops than that, an even selection of whole images is used.
    Raises: MetricError for images of unequal sizes, or masks that are not their images'.
    """
    _check_alike(train_NCHW, train_masks_NHW)
    _check_alike(held_out_NCHW, held_out_masks_NHW)
    shapes = {(images.shape[-2], images.shape[-1]) for images in (generated_NCHW, train_NCHW, held_out_NCHW)}
    if len(shapes) > 1:
        raise MetricError(f"all images must have one size, but got {sorted(shapes)}; read all of them at one size")
    if train_groups is not None and len(train_groups) != len(train_NCHW):
        raise MetricError(
            f"there must be a group for each of the {len(train_NCHW)} images, but got {len(train_groups)}"
        )
    if num_neighbours < 1:
        raise MetricError(f"num_neighbours >= 1 must hold, but got num_neighbours={num_neighbours}")
    train_defects, real_defects = (
        _defects(masks_NHW, max_per_image=MAX_PER_IMAGE) for masks_NHW in (train_masks_NHW, held_out_masks_NHW)
    )
    defective_images = {defect.image for defect in train_defects}
    folds = _folds(defective_images, groups=train_groups or [str(n) for n in range(len(train_NCHW))])
    defective = [len(defective_images.intersection(fold)) for fold in folds]
    if min(defective) < num_neighbours or not real_defects or len(generated_NCHW) == 0:
        num_real = len({defect.image for defect in real_defects})
        return NotApplicable(
            "defect coverage needs generated images, held-out images with masked defects, and training images with "
            f"masked defects, at least {num_neighbours} in either fold of groups, but there are {len(generated_NCHW)}, "
            f"{num_real}, and {defective[0]} and {defective[1]}; add images with masks"
        )
    (shape,) = shapes
    median = float(np.median([box.side_px for box in defect_boxes(train_masks_NHW)]))
    side = max(round(median * _COVERAGE_FACTOR), _least_side(shape))
    train_boxes, real_boxes = (
        tuple(defect.box(side_px=side, shape=shape) for defect in defects) for defects in (train_defects, real_defects)
    )
    train_JD = crop_features(train_NCHW, train_boxes, extractor=extractor)
    owners_J = torch.tensor([box.image for box in train_boxes])
    search = _Search(
        real_KD=crop_features(held_out_NCHW, real_boxes, extractor=extractor),
        grid=grid_boxes(1, side_px=side, shape=shape),
        extractor=extractor,
    )
    most = max(2, max_crops // len(search.grid))
    generated = search.nearest(generated_NCHW, _at_most(range(len(generated_NCHW)), count=most))
    reals = [
        search.nearest(train_NCHW, _at_most(fold, count=most // 2), masks_NHW=train_masks_NHW)
        for fold in reversed(folds)
    ]
    num_images = min(one.nearest_KN.shape[1] for one in (generated, *reals))
    num_healthy = min(one.nearest_healthy_KN.shape[1] for one in reals)
    has_background = num_healthy >= _MIN_BACKGROUND_IMAGES
    if has_background:
        num_images = min(num_images, num_healthy)
    covered, yardstick, background = [], [], []
    for fold, real in zip(folds, reals, strict=True):
        own_J = torch.isin(owners_J, torch.tensor(fold))
        radii_K = _radii(search.real_KD, train_JD[own_J], owners_J=owners_J[own_J], num_neighbours=num_neighbours)
        covered.append(chance_covered(generated.nearest_KN, radii_K, num_images=num_images))
        yardstick.append(chance_covered(real.nearest_KN, radii_K, num_images=num_images))
        if has_background:
            background.append(chance_covered(real.nearest_healthy_KN, radii_K, num_images=num_images))
    return DefectCoverage(
        covered_K=torch.stack(covered).mean(dim=0),
        yardstick_K=torch.stack(yardstick).mean(dim=0),
        background_K=torch.stack(background).mean(dim=0) if background else None,
        num_images=num_images,
        side_px=side,
        num_neighbours=num_neighbours,
        real_boxes=real_boxes,
        nearest_boxes=generated.nearest_boxes,
        nearest_distance_K=generated.nearest_KN.amin(dim=1),
    )


def chance_covered(nearest_KN: Tensor, radii_K: Tensor, *, num_images: int) -> Tensor:
    """The probability that `num_images` of the N images, drawn without replacement, hold a crop within the radius."""
    within_K = (nearest_KN <= radii_K[:, None]).sum(dim=1).numpy()
    return torch.from_numpy(1 - hypergeom.pmf(0, nearest_KN.shape[1], within_K, num_images))


@dataclass(frozen=True)
class _Defect:
    """The middle of a defect in an image, and its longer side."""

    image: int
    centre: tuple[float, float]
    extent: int

    def box(self, *, side_px: int, shape: tuple[int, int]) -> Box:
        """The box of this side nearest to the defect's middle that lies inside the image."""
        side = min(side_px, *shape)
        top, left = (
            min(max(round(middle - side / 2), 0), length - side)
            for middle, length in zip(self.centre, shape, strict=True)
        )
        return Box(self.image, top, left, side)


def _defects(masks_NHW: Tensor, *, max_per_image: int) -> list[_Defect]:
    _check_masks(masks_NHW)
    defects = []
    for image, mask_HW in enumerate(masks_NHW.cpu().numpy()):
        labels_HW, _ = label(mask_HW, structure=_EIGHT_NEIGHBOURS)
        areas = np.bincount(labels_HW.ravel())[1:]
        extents = find_objects(labels_HW)
        for number in np.argsort(-areas, kind="stable")[:max_per_image]:
            rows, columns = extents[number]
            centre = ((rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2)
            defects.append(_Defect(image, centre, max(rows.stop - rows.start, columns.stop - columns.start)))
    return defects


@dataclass(frozen=True, eq=False, kw_only=True)
class _Nearest:
    """The distance from each real defect to each image's nearest grid crop, and to the nearest one without a defect of
    those images where most crops are without.
    """

    nearest_KN: Tensor
    nearest_healthy_KN: Tensor
    nearest_boxes: tuple[Box, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Search:
    """Looks for crops near to the real defects on the grid (of one image) laid over images."""

    real_KD: Tensor
    grid: tuple[Box, ...]
    extractor: Extractor

    def nearest(self, images_NCHW: Tensor, used: Sequence[int], *, masks_NHW: Tensor | None = None) -> _Nearest:
        distances, places = [], []
        healthy_NG = torch.ones(len(used), len(self.grid), dtype=torch.bool)
        if masks_NHW is not None:
            touched = [[bool(masks_NHW[n, box.rows, box.columns].any()) for box in self.grid] for n in used]
            healthy_NG = ~torch.tensor(touched)
        healthy = []
        per_chunk = max(1, _CHUNK // len(self.grid))
        for start in range(0, len(used), per_chunk):
            chunk = used[start : start + per_chunk]
            boxes = [replace(box, image=n) for n in chunk for box in self.grid]
            features_BD = crop_features(images_NCHW, boxes, extractor=self.extractor)
            distance_KNG = _distances(self.real_KD, features_BD).view(-1, len(chunk), len(self.grid))
            nearest, place = distance_KNG.min(dim=2)
            distances.append(nearest)
            places.append(place)
            touching_NG = ~healthy_NG[start : start + per_chunk]
            healthy.append(distance_KNG.masked_fill(touching_NG, torch.inf).amin(dim=2))
        nearest_KN, place_KN = torch.cat(distances, dim=1), torch.cat(places, dim=1)
        mostly_healthy_N = healthy_NG.double().mean(dim=1) >= _MIN_HEALTHY
        image_K = nearest_KN.argmin(dim=1)
        return _Nearest(
            nearest_KN=nearest_KN,
            nearest_healthy_KN=torch.cat(healthy, dim=1)[:, mostly_healthy_N],
            nearest_boxes=tuple(
                replace(self.grid[int(place_KN[k, n])], image=used[n]) for k, n in enumerate(image_K.tolist())
            ),
        )


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    # By direct differences: the expanded square would lose the small distances, which decide here.
    return torch.cdist(a_ND.double(), b_MD.double(), compute_mode="donot_use_mm_for_euclid_dist")


def _radii(real_KD: Tensor, train_JD: Tensor, *, owners_J: Tensor, num_neighbours: int) -> Tensor:
    """The distance from each real defect to the k-th nearest training image, by that image's nearest defect."""
    distance_KJ = _distances(real_KD, train_JD)
    owners = sorted(set(owners_J.tolist()))
    nearest_KN = torch.stack([distance_KJ[:, owners_J == owner].amin(dim=1) for owner in owners], dim=1)
    radii_K: Tensor = nearest_KN.kthvalue(num_neighbours, dim=1).values
    return radii_K


def _folds(defective: set[int], *, groups: Sequence[str]) -> tuple[list[int], list[int]]:
    """All images in two folds, no group in both, about as many with a defect in each and as many images."""
    members: dict[str, list[int]] = {}
    for image, group in enumerate(groups):
        members.setdefault(group, []).append(image)
    folds: tuple[list[int], list[int]] = ([], [])
    counts = [[0, 0], [0, 0]]
    # Large groups first: small ones then even the folds out.
    for images in sorted(members.values(), key=lambda m: (-len(defective.intersection(m)), -len(m))):
        emptier = 0 if counts[0] <= counts[1] else 1
        folds[emptier].extend(images)
        counts[emptier][0] += len(defective.intersection(images))
        counts[emptier][1] += len(images)
    return sorted(folds[0]), sorted(folds[1])


def _at_most(images: Sequence[int], *, count: int) -> list[int]:
    """All the images, or `count` of them evenly."""
    return [images[row] for row in evenly(len(images), count=min(count, len(images))).tolist()]


def _least_side(shape: tuple[int, int]) -> int:
    return max(round(min(shape) * _MIN_SIDE), 1)


def _starts(length: int, *, side_px: int) -> list[int]:
    """Where boxes begin along one side: at most half a box apart, the first and the last at the edges."""
    steps = -(-(length - side_px) // max(1, side_px // 2))
    return [round(step * (length - side_px) / steps) for step in range(steps + 1)] if steps else [0]


def _batches(order: Sequence[int], boxes: Sequence[Box]) -> Iterator[list[int]]:
    for _, alike in groupby(order, key=lambda i: boxes[i].side_px):
        members = list(alike)
        for start in range(0, len(members), _CHUNK):
            yield members[start : start + _CHUNK]


def _check_masks(masks_NHW: Tensor) -> None:
    if masks_NHW.ndim != 3 or masks_NHW.dtype != torch.bool:
        raise MetricError(
            f"masks must be bool (images, H, W), but got {masks_NHW.dtype} with shape {tuple(masks_NHW.shape)}"
        )


def _check_alike(images_NCHW: Tensor, masks_NHW: Tensor) -> None:
    _check_masks(masks_NHW)
    wanted = (len(images_NCHW), *images_NCHW.shape[2:])
    if tuple(masks_NHW.shape) != wanted:
        raise MetricError(
            f"there must be a mask of its image's size for each image, {wanted}, but got {tuple(masks_NHW.shape)}"
        )
