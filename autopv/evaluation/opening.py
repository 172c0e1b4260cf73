"""The sets of an evaluation: opened, brought to one size, and the images that a model was trained on kept apart."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autopv.data.class_labels import class_labels
from autopv.data.filed import take_rows
from autopv.data.images import ImageSet, load_images
from autopv.data.splits import Splits, split_images
from autopv.errors import DataError
from autopv.evaluation.image_source import ImageSource, TensorSource
from autopv.evaluation.model_source import RUN_FILE_NAME, ModelSource
from autopv.evaluation.sources import open_source
from autopv.training.checkpoint import BEST_FOLDER
from autopv.training.trainer import training_digest

# As many samples as steady a distance at the usual n, and a bound on what a slow sampler costs unasked.
_MIN_SAMPLES, _MAX_SAMPLES = 512, 2048
# Checkpoints lie this deep in a run at most, as in `trials/<trial>/checkpoint`.
_RUN_DEPTH = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedSets:
    """What takes part in an evaluation. notes: what was decided about the sets, as sentences for the user."""

    reference: ImageSource
    train: ImageSource | None
    generated: tuple[ImageSource, ...]
    size_px: int
    notes: tuple[str, ...]


def open_sets(
    reference: str,
    generated: tuple[str, ...],
    *,
    train: str | None = None,
    size_px: int | None = None,
    num_samples: int | None = None,
    group_by: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> OpenedSets:
    """The named sets. Where a model was trained on the reference, its training images are told from the others.

    Raises: DataError for sets that cannot be read, or have no common size, and for wishes that would change nothing.
    """
    names = [reference, *generated, *([] if train is None else [train])]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"every set must be named once, but {twice[0]!r} is named {names.count(twice[0])} times")
    real = open_source(reference, role="the reference", num_samples=_MIN_SAMPLES, seed=seed, device=device)
    samples = num_samples or max(_MIN_SAMPLES, min(_MAX_SAMPLES, len(real)))
    made = tuple(
        open_source(name, role="a generated set", num_samples=samples, seed=seed, device=device) for name in generated
    )
    notes: list[str] = []
    size = size_px or _common_size(made)
    if size_px is None and real.side_px != size:
        notes.append(f"all images are brought to {size} px, the size of the generated ones")
    seen = None if train is None else open_source(train, role="--train", num_samples=samples, seed=seed, device=device)
    models = [one for one in made if isinstance(one, ModelSource)]
    for one in models:
        if one.file.parent.name == BEST_FOLDER and Path(one.label).name not in (BEST_FOLDER, one.file.name):
            notes.append(
                f"{one.label} stands for the model of its best look, at step {one.info.position}; "
                f"{Path(one.label) / one.file.name} would be its last checkpoint"
            )
    if num_samples is not None and not models:
        raise DataError("--samples is how many images a model generates, but no generated set is a model; leave it out")
    if group_by is not None and (not models or seen is not None):
        raise DataError(
            "--group-by tells what a model was trained on from the rest of the reference, which takes a model among "
            "the generated sets and no --train; leave it out"
        )
    if models and seen is None and real.kind != "model":
        real, seen = _apart(reference, real, models=models, group_by=group_by, notes=notes)
    if real.side_px is not None and real.side_px < size:
        notes.append(f"{real.label} is enlarged from {real.side_px} to {size} px; --size {real.side_px} would not")
    return OpenedSets(reference=real, train=seen, generated=made, size_px=size, notes=tuple(notes))


def _common_size(made: tuple[ImageSource, ...]) -> int:
    sides = {one.label: one.side_px for one in made}
    found = {side for side in sides.values() if side is not None}
    if None in sides.values() or len(found) > 1:
        listed = ", ".join(f"{label}: {'mixed' if side is None else f'{side} px'}" for label, side in sides.items())
        raise DataError(
            f"generated sets must have one size, but they have {listed}; "
            f"name the size to bring all images to, e.g. --size {min(found, default=64)}"
        )
    (size,) = found
    return size


def _apart(
    name: str, whole: ImageSource, *, models: list[ModelSource], group_by: str | None, notes: list[str]
) -> tuple[ImageSource, ImageSource | None]:
    """The reference without, and with only, what every one of the models was trained on, where that is to be known.

    Where a model was trained on every image of it (`autopv train --all-images`), it stays whole: none is left apart.
    """
    known: dict[str, tuple[ImageSet, Splits]] = {}
    for model in models:
        run = _run_record(model)
        course = model.info.course
        image_set = load_images(
            name,
            size_px=model.info.size_px,
            channels=model.info.channels,
            group_by=group_by or run.get("group_by") or (None if course is None else course.group_by),
        )
        if _was_trained_on(model, image_set, image_set.images_NCHW, image_set.masks_NHW):
            notes.append(
                f"{model.label} was trained on every image of {name}: none is left that it has not seen, so its "
                "distances say how well it reproduces them, and favour it for memorising; name images it has not seen "
                f"as the reference, and --train {name}"
            )
            return whole, None
        try:
            # A search splits once, and trains on those splits from many seeds.
            splits = split_images(image_set, seed=run.get("seed", model.info.seed))
        except DataError:
            break  # too few to have been split, so not what it was trained on
        if not _was_trained_on(model, image_set, *_of_split(image_set, splits, "train"), rows=splits.train):
            break
        known[splits.digest] = (image_set, splits)
    else:
        if len(known) == 1:
            image_set, splits = next(iter(known.values()))
            notes.append(
                f"trained on {len(splits.train)} images of {name}; the reference is {len(splits.final)} others, which "
                "no training or search has seen (the final split)"
            )
            return _subset(image_set, splits, "final", name=name), _subset(image_set, splits, "train", name=name)
    notes.append(
        f"not known which images the models were trained on: if some are in {name}, distances favour models that "
        "memorise; name them by --train"
    )
    return whole, None


def _was_trained_on(
    model: ModelSource,
    image_set: ImageSet,
    images_NCHW: Tensor,
    masks_NHW: Tensor | None,
    *,
    rows: Tensor | None = None,
) -> bool:
    """Whether these images of the set were what the model learnt from.

    With the masks if its policy needed them, and with the classes if it was told them. rows: default all.
    """
    labels_N = None
    if model.info.class_names:
        try:
            labels_N = class_labels(image_set, rows).labels_N
        except DataError:  # of fewer than two classes, so not what it was trained on
            return False
    return model.info.data_digest in [training_digest(images_NCHW, masks, labels_N) for masks in (None, masks_NHW)]


def _subset(image_set: ImageSet, splits: Splits, split: str, *, name: str) -> TensorSource:
    chosen = splits.rows(split).tolist()
    labels = image_set.labels
    images_NCHW, masks_NHW = _of_split(image_set, splits, split)
    return TensorSource(
        images_NCHW,
        label=f"{name} ({split} split)",
        names=[image_set.names[row] for row in chosen],
        classes=None if labels is None else [image_set.class_names[labels[row]] for row in chosen],
        masks_NHW=masks_NHW,
    )


def _of_split(image_set: ImageSet, splits: Splits, split: str) -> tuple[Tensor, Tensor | None]:
    """Images and masks of a split; mapped where they would not fit in memory, from the file that a training made."""
    rows, masks_NHW = splits.rows(split), image_set.masks_NHW
    return (
        take_rows(image_set.images_NCHW, rows, key=splits.key(split)),
        None if masks_NHW is None else take_rows(masks_NHW, rows, key=splits.key(split, of="masks")),
    )


def _run_record(model: ModelSource) -> dict[str, Any]:
    """How the run that the model lies in told objects apart (`group_by`) and split (`seed`); empty outside of a run."""
    folder = Path(model.label).expanduser().absolute()
    for place in (folder, *folder.parents[:_RUN_DEPTH]):
        with suppress(OSError, ValueError, AttributeError):
            found = json.loads((place / RUN_FILE_NAME).read_text(encoding="utf-8"))
            kinds = {"group_by": str, "seed": int}
            return {key: found.get(key) for key, kind in kinds.items() if isinstance(found.get(key), kind)}
    return {}
