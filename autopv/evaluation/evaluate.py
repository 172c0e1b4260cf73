"""One evaluation: generated sets measured against real images, with floors, errors, and what the numbers do not say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from autopv import __version__
from autopv.errors import InputError, MetricError
from autopv.evaluation.defects import DefectFindings, defect_findings
from autopv.evaluation.feature_set import FeatureSet
from autopv.evaluation.feature_store import default_cache, extract
from autopv.evaluation.image_source import ImageSource
from autopv.evaluation.not_applicable import NotApplicable
from autopv.evaluation.opening import OpenedSets, open_sets
from autopv.evaluation.set_facts import notes_on_sets, set_record
from autopv.evaluation.usefulness import Labelled, Usefulness, usefulness
from autopv.evaluation.yardstick import Yardstick, at_most
from autopv.metrics.classes import ByClass, by_class
from autopv.metrics.estimate import Estimate
from autopv.metrics.extractors import load_extractor
from autopv.metrics.memorisation import Memorisation, memorisation
from autopv.metrics.metric import KID_SCALE, default_input_size_px, metric_name
from autopv.metrics.neighbours import Neighbourhoods

DISTANCES = ("fd", "kid")
# Crops around defects are about this much smaller than images, so that a smaller input shows all that they hold.
_CROPS_PER_SIDE = 4
CONFIDENCE = 0.95
_REACH = float(norm.ppf((1 + CONFIDENCE) / 2))
# (what is worked on, images or sets done, in all)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What to evaluate: sources as `open_source` takes them. None leaves a choice to autopv.

    reference: real images. generated: the set in question. against: other generated sets to compare it with.
    train: the real images that the generators learnt from; what a model of autopv learnt from is found by itself.
    num_images: n on both sides. num_samples: images that models generate. cache: None keeps no features.
    """

    reference: str
    generated: str
    against: tuple[str, ...] = ()
    train: str | None = None
    extractor: str = "lite0"
    size_px: int | None = None
    num_images: int | None = None
    num_samples: int | None = None
    group_by: str | None = None
    seed: int = 0
    device: str = "cpu"
    strict: bool = False
    cache: Path | None = field(default_factory=default_cache)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The figures as a JSON-ready record, and pictures for inspectors.

    pairs: by generated set, the images nearest to a training image, each (generated, training), uint8 (C, S, S).
    defects: by generated set, real defects each beside the nearest generated crop.
    """

    record: Mapping[str, Any]
    pairs: Mapping[str, tuple[tuple[Tensor, Tensor], ...]]
    defects: Mapping[str, tuple[tuple[Tensor, Tensor], ...]]


def evaluate(request: EvaluateRequest, *, on_progress: Progress | None = None) -> Evaluation:
    """The generated set, and those it is compared with, measured against the reference.

    Features are kept in `request.cache` as they are made, so an interrupted evaluation goes on where it was.
    Raises: DataError for sets that cannot be read, MetricError for sets that cannot be measured.
    """
    if request.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda needs a GPU that torch can use, but there is none; see `autopv doctor`")
    torch.set_num_threads(1)
    tell = on_progress or (lambda _what, _done, _total: None)
    sets = open_sets(
        request.reference,
        (request.generated, *request.against),
        train=request.train,
        size_px=request.size_px,
        num_samples=request.num_samples,
        group_by=request.group_by,
        seed=request.seed,
        device=request.device,
    )
    extractor, crop_extractor = (
        load_extractor(request.extractor, input_size_px=default_input_size_px(request.extractor, image_size_px=size_px))
        for size_px in (sets.size_px, sets.size_px // _CROPS_PER_SIDE)
    )

    def features_of(source: ImageSource) -> FeatureSet:
        return extract(
            source,
            extractor,
            size_px=sets.size_px,
            cache=request.cache,
            on_progress=lambda done, total: tell(f"features of {source.label}", done, total),
            strict=request.strict,
            device=request.device,
        )

    reference = features_of(sets.reference)
    train = None if sets.train is None else features_of(sets.train)
    generated = {source.label: features_of(source) for source in sets.generated}
    yardstick = Yardstick(
        reference, train, generated=list(generated.values()), num_images=request.num_images, seed=request.seed
    )
    tell("distances", 0, len(generated))
    floors = {distance: yardstick.floor(distance) for distance in DISTANCES}
    measured = {
        label: {distance: yardstick.distance(one, name=label, distance=distance) for distance in DISTANCES}
        for label, one in generated.items()
    }
    pairs: dict[str, tuple[tuple[Tensor, Tensor], ...]] = {}
    defects: dict[str, tuple[tuple[Tensor, Tensor], ...]] = {}
    told: dict[str, Any] = {}
    for number, source in enumerate(sets.generated):
        tell("memorisation, classes, defects, usefulness of sets", number, len(generated))
        label, features = source.label, generated[source.label]
        memory = _memorisation(features, yardstick)
        if isinstance(memory, Memorisation):
            pairs[label] = _pair_images(memory, features, source=source, yardstick=yardstick, sets=sets)
        found = defect_findings(
            source,
            features,
            yardstick=yardstick,
            sets=sets,
            extractor=crop_extractor,
        )
        if isinstance(found, DefectFindings):
            defects[label] = found.pictures
        told[label] = {
            **{distance: _with_excess(value, floors[distance]) for distance, value in measured[label].items()},
            **_neighbourhoods_record(yardstick.neighbourhoods(features)),
            "memorisation": _reason(memory)
            if isinstance(memory, NotApplicable)
            else _memory_record(memory, features, train=train),
            "classes": _classes_record(features, yardstick),
            "defects": _reason(found) if isinstance(found, NotApplicable) else found.record,
            "usefulness": _usefulness_record(features, yardstick, seed=request.seed),
        }
    record = {
        "autopv_version": __version__,
        "torch_version": torch.__version__,
        "metrics": {distance: metric_name(distance, request.extractor) for distance in DISTANCES},
        "extractor": reference.identity.to_dict(),
        "num_images": yardstick.num_images,
        "num_generated": yardstick.num_generated,
        "is_halved": yardstick.is_halved,
        "seed": request.seed,
        "confidence": CONFIDENCE,
        "kid_scale": KID_SCALE,
        "notes": [*sets.notes, *notes_on_sets(reference, train, list(generated.values()), yardstick=yardstick)],
        "sets": {
            one.label: set_record(one, role=role, reference=reference, train=train)
            for role, members in (
                ("reference", [reference]),
                ("train", [] if train is None else [train]),
                ("generated", list(generated.values())),
            )
            for one in members
        },
        "floor": {
            **{distance: _figures(floor) for distance, floor in floors.items()},
            **_neighbourhoods_record(yardstick.floor_neighbourhoods()),
        },
        "generated": told,
        "comparisons": [
            _comparison(request.generated, other, distance, measured, yardstick=yardstick)
            for other in request.against
            for distance in DISTANCES
        ],
    }
    return Evaluation(record=record, pairs=pairs, defects=defects)


def _figures(estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval(confidence=CONFIDENCE)
    return {"value": estimate.value, "standard_error": estimate.standard_error, "low": low, "high": high}


def _neighbourhoods_record(found: Neighbourhoods) -> dict[str, dict[str, float]]:
    values = {
        "precision": found.precision,
        "recall": found.recall,
        "density": found.density,
        "coverage": found.coverage,
    }
    return {name: {"value": value} for name, value in values.items()}


def _with_excess(estimate: Estimate, floor: Estimate) -> dict[str, Any]:
    return {**_figures(estimate), "excess": _figures(estimate - floor)}


def _comparison(
    first: str, second: str, distance: str, measured: Mapping[str, Mapping[str, Estimate]], *, yardstick: Yardstick
) -> dict[str, Any]:
    """Which of two sets is nearer to the real images, or that the images cannot tell, and how many could."""
    difference = measured[first][distance] - measured[second][distance]
    low, high = difference.interval(confidence=CONFIDENCE)
    is_tie = low <= 0 <= high
    needed = None
    if is_tie and difference.value != 0:
        # The squared standard error falls as 1/n.
        share = (_REACH * difference.standard_error / abs(difference.value)) ** 2
        needed = int(share * max(yardstick.num_images, yardstick.num_generated)) + 1
    return {
        "first": first,
        "second": second,
        "distance": distance,
        **_figures(difference),
        "tie": is_tie,
        "nearer": None if is_tie else (first if difference.value < 0 else second),
        "num_images_to_resolve": needed,
    }


def _memorisation(features: FeatureSet, yardstick: Yardstick) -> Memorisation | NotApplicable:
    if yardstick.is_halved:
        return NotApplicable("whether training images were memorised cannot be told without them; name them by --train")
    (reference, reference_rows), (train, train_rows) = yardstick.held_out, yardstick.other_real
    try:
        return memorisation(
            features.rows(_all_rows(features)),
            train.rows(at_most(train_rows)),
            held_out_KD=reference.rows(at_most(reference_rows)),
        )
    except MetricError as error:
        return NotApplicable(str(error))


def _pair_images(
    found: Memorisation, features: FeatureSet, *, source: ImageSource, yardstick: Yardstick, sets: OpenedSets
) -> tuple[tuple[Tensor, Tensor], ...]:
    train, train_rows = yardstick.other_real
    rows, train_rows = _all_rows(features), at_most(train_rows)
    assert sets.train is not None

    def image(of: ImageSource, features: FeatureSet, row: int) -> Tensor:
        index = features.indices[row]
        return of.read(index, index + 1, size_px=sets.size_px, channels=3).images_NCHW[0]

    return tuple(
        (image(source, features, int(rows[pair.generated])), image(sets.train, train, int(train_rows[pair.train])))
        for pair in found.pairs
    )


def _memory_record(found: Memorisation, features: FeatureSet, *, train: FeatureSet | None) -> dict[str, Any]:
    assert train is not None
    rows, train_rows = _all_rows(features), _all_rows(train)
    return {
        "num_near": found.num_near,
        "num_generated": len(found.near_M),
        "share_near": found.share_near,
        "expected_share": found.expected_share,
        "p_value": found.p_value,
        "copying_z": found.copying_z,
        "num_copies": found.num_copies,
        "pairs": [
            {
                "generated": features.names[rows[pair.generated]],
                "train": train.names[train_rows[pair.train]],
                "distance": pair.distance,
                "ratio": pair.ratio,
            }
            for pair in found.pairs
        ],
    }


def _classes_record(features: FeatureSet, yardstick: Yardstick) -> dict[str, Any]:
    (reference, rows), (other, other_rows) = yardstick.held_out, yardstick.other_real
    if reference.classes is None or features.classes is None or len(set(reference.classes)) < 2:
        missing = (
            features.label if reference.classes is not None and len(set(reference.classes)) > 1 else reference.label
        )
        return _reason(
            NotApplicable(f"{missing} has no classes; sort the images into sub-folders named alike on both sides")
        )
    rows, other_rows, made_rows = at_most(rows), at_most(other_rows), _all_rows(features)
    found: ByClass = by_class(
        reference.rows(rows),
        features.rows(made_rows),
        reference_classes=_classes(reference, rows),
        generated_classes=_classes(features, made_rows),
        label=f"generated {features.label}",
        train_KD=None if other.classes is None else other.rows(other_rows),
        train_classes=() if other.classes is None else _classes(other, other_rows),
    )
    return {
        "distances": {
            one.name: {
                "num_reference": one.num_reference,
                "num_generated": one.num_generated,
                "kid": _figures(one.kernel * KID_SCALE),
                "num_fd": one.num_frechet,
                "fd": one.frechet,
                "fd_floor": one.frechet_floor,
            }
            for one in found.distances
        },
        "only_reference": list(found.only_reference),
        "only_generated": list(found.only_generated),
        "too_few": list(found.too_few),
        "share_distance": found.share_distance,
    }


def _usefulness_record(features: FeatureSet, yardstick: Yardstick, *, seed: int) -> dict[str, Any]:
    (reference, rows), (other, other_rows) = yardstick.held_out, yardstick.other_real
    found = usefulness(
        _labelled(other, other_rows),
        _labelled(features, _all_rows(features)),
        held_out=_labelled(reference, rows),
        seed=seed,
    )
    if isinstance(found, NotApplicable):
        return _reason(found)
    return _probe_record(found)


def _probe_record(found: Usefulness) -> dict[str, Any]:
    return {
        "classes": list(found.classes),
        "left_out": dict(found.left_out),
        "num_train": found.num_train,
        "num_generated": dict(found.num_generated),
        "num_test": found.num_test,
        "penalty": found.penalty,
        **{
            score: {
                "real": getattr(found.real, score),
                "with_generated": getattr(found.with_generated, score),
                "change": change.value,
                "low": change.low,
                "high": change.high,
                "tie": change.is_tie,
            }
            for score, change in (("balanced_accuracy", found.balanced_accuracy), ("macro_auroc", found.macro_auroc))
        },
    }


def _labelled(features: FeatureSet, rows: Tensor) -> Labelled:
    rows = at_most(rows)
    classes = None if features.classes is None else _classes(features, rows)
    return Labelled(features_ND=features.rows(rows), classes=classes)


def _all_rows(features: FeatureSet) -> Tensor:
    return at_most(torch.arange(len(features)))


def _classes(features: FeatureSet, rows: Tensor) -> tuple[str, ...]:
    assert features.classes is not None
    return tuple(features.classes[row] for row in rows.tolist())


def _reason(found: NotApplicable) -> dict[str, Any]:
    return {"not_applicable": found.reason}
