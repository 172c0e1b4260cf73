"""What an evaluation says of the defects themselves, where the real images come with masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autopv.evaluation.feature_set import FeatureSet
from autopv.evaluation.image_source import Chunk, ImageSource
from autopv.evaluation.not_applicable import NotApplicable
from autopv.evaluation.opening import OpenedSets
from autopv.evaluation.regions import Box, DefectCoverage, DefectCrops, defect_coverage, defect_crops
from autopv.evaluation.yardstick import REFERENCE, Yardstick
from autopv.metrics.estimate import Estimate
from autopv.metrics.features import Extractor
from autopv.metrics.metric import distance_of_features, estimate_of_features
from autopv.metrics.neighbours import nearest_neighbours
from autopv.metrics.selection import evenly

# Images of a set that are held at once to be cropped: at 256 px and three channels, 200 MB.
MAX_IMAGES = 1000
# Fewer crops than this say nothing about a distribution.
_MIN_CROPS = 8
_NUM_PICTURES = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class DefectFindings:
    """A JSON-ready record, and real defects each beside the nearest generated crop, uint8 (C, s, s)."""

    record: Mapping[str, Any]
    pictures: tuple[tuple[Tensor, Tensor], ...]


def defect_findings(
    source: ImageSource, features: FeatureSet, *, yardstick: Yardstick, sets: OpenedSets, extractor: Extractor
) -> DefectFindings | NotApplicable:
    """How the defects of generated images compare with real ones.

    With masks on both sides, the distances between crops around defects; with masks of the real images alone, how many
    real defects the generated images hold the like of.
    """
    (reference, reference_rows), (other, other_rows) = yardstick.held_out, yardstick.other_real
    other_source = sets.reference if sets.train is None else sets.train
    for one in (sets.reference, other_source):
        if not one.has_masks:
            return NotApplicable(f"{one.label} has no defect masks; put them beside the images")
    real = _read(sets.reference, reference, reference_rows, size_px=sets.size_px)
    train = _read(other_source, other, other_rows, size_px=sets.size_px)
    made = _read(source, features, torch.arange(len(features)), size_px=sets.size_px)
    if source.has_masks:
        return _between_crops(real, train, made, extractor=extractor)
    assert real.masks_NHW is not None
    assert train.masks_NHW is not None
    found = defect_coverage(
        made.images_NCHW,
        train_NCHW=train.images_NCHW,
        train_masks_NHW=train.masks_NHW,
        held_out_NCHW=real.images_NCHW,
        held_out_masks_NHW=real.masks_NHW,
        extractor=extractor,
    )
    if isinstance(found, NotApplicable):
        return found
    return DefectFindings(
        record=_coverage_record(found) | {"input_size_px": extractor.input_size_px},
        # Such a box may be the inside of a defect: its surroundings tell what it is.
        pictures=_pictures(
            found.nearest_distance_K, found.real_boxes, found.nearest_boxes, real=real, made=made, times=2
        ),
    )


def _read(source: ImageSource, features: FeatureSet, rows: Tensor, *, size_px: int) -> Chunk:
    """The images of these rows, or an even selection of them."""
    if len(rows) > MAX_IMAGES:
        rows = rows[evenly(len(rows), count=MAX_IMAGES)]
    indices = [features.indices[row] for row in rows.tolist()]
    chunks = [source.read(index, index + 1, size_px=size_px, channels=3) for index in indices]
    return Chunk(
        images_NCHW=torch.cat([chunk.images_NCHW for chunk in chunks]),
        masks_NHW=torch.cat([chunk.masks_NHW for chunk in chunks if chunk.masks_NHW is not None])
        if source.has_masks
        else None,
        indices=tuple(indices),
        skipped=(),
    )


def _between_crops(real: Chunk, train: Chunk, made: Chunk, *, extractor: Extractor) -> DefectFindings | NotApplicable:
    sides: list[DefectCrops] = []
    for what, chunk in (("reference", real), ("training", train), ("generated", made)):
        assert chunk.masks_NHW is not None
        crops = defect_crops(chunk.images_NCHW, chunk.masks_NHW, extractor=extractor)
        if len(crops.boxes) < _MIN_CROPS:
            return NotApplicable(
                f"a distance between defects needs at least {_MIN_CROPS} of them a side, but the {what} images have "
                f"{len(crops.boxes)}"
            )
        sides.append(crops)
    reference, _, generated = sides
    count = min(len(side.boxes) for side in sides)
    even = [side.features_ND[evenly(len(side.boxes), count=count)] for side in sides]
    record = {"kind": "distance", "num_defects": count, "input_size_px": extractor.input_size_px}
    for distance in ("fd", "kid"):
        value, real_influence, made_influence = estimate_of_features(
            reference.features_ND, generated.features_ND, distance=distance
        )
        if distance == "fd":
            value = distance_of_features(even[0], even[2], distance=distance)
        # Defects of one image are not independent: the image is what was drawn.
        estimate = Estimate(
            value,
            {
                REFERENCE: _by_image(real_influence, reference, count=len(real.indices)),
                "generated": _by_image(made_influence, generated, count=len(made.indices)),
            },
        )
        record[distance] = {
            "value": value,
            "standard_error": estimate.standard_error,
            "floor": distance_of_features(even[0], even[1], distance=distance),
        }
    distances_K, nearest_K = nearest_neighbours(reference.features_ND, generated.features_ND)
    nearest_boxes = [generated.boxes[i] for i in nearest_K.tolist()]
    pictures = _pictures(distances_K, reference.boxes, nearest_boxes, real=real, made=made, times=1)
    return DefectFindings(record=record, pictures=pictures)


def _by_image(influence_n: Tensor, crops: DefectCrops, *, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).index_add_(0, crops.owner_of_each, influence_n)


def _coverage_record(found: DefectCoverage) -> dict[str, Any]:
    owners = [box.image for box in found.real_boxes]
    images = torch.tensor([sorted(set(owners)).index(owner) for owner in owners])

    def share(values_K: Tensor) -> dict[str, float]:
        influence_K = (values_K - values_K.mean()) / len(values_K)
        by_image = torch.zeros(len(set(owners)), dtype=torch.float64).index_add_(0, images, influence_K.double())
        return {"value": float(values_K.mean()), "standard_error": float(by_image.square().sum()) ** 0.5}

    return {
        "kind": "coverage",
        "covered": share(found.covered_K),
        "real": share(found.yardstick_K),
        "background": None if found.background_K is None else share(found.background_K),
        "difference": share(found.covered_K - found.yardstick_K),
        "num_defects": len(found.real_boxes),
        "num_images": found.num_images,
        "side_px": found.side_px,
    }


def _pictures(
    distances_K: Tensor,
    real_boxes: Sequence[Box],
    nearest_boxes: Sequence[Box],
    *,
    real: Chunk,
    made: Chunk,
    times: int,
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Real defects beside their nearest: the nearest first, then the farthest. Inspectors should see both."""
    order = distances_K.argsort(stable=True).tolist()
    half = _NUM_PICTURES // 2
    chosen = order if len(order) <= _NUM_PICTURES else [*order[:half], *order[-half:]]
    return tuple((_crop(real, real_boxes[i], times=times), _crop(made, nearest_boxes[i], times=times)) for i in chosen)


def _crop(chunk: Chunk, box: Box, *, times: int) -> Tensor:
    """The box with what lies around it, `times` as wide, moved inside the image."""
    height, width = chunk.images_NCHW.shape[-2:]
    side = min(times * box.side_px, height, width)
    top, left = (
        max(0, min(start - (side - box.side_px) // 2, length - side))
        for start, length in ((box.top, height), (box.left, width))
    )
    return chunk.images_NCHW[box.image, :, top : top + side, left : left + side]
