"""What is to be known of each set of an evaluation: its size, its copies, what was left out."""

from collections.abc import Sequence
from typing import Any

from autopv.evaluation.feature_set import FeatureSet
from autopv.evaluation.yardstick import Yardstick


def set_record(one: FeatureSet, *, role: str, reference: FeatureSet, train: FeatureSet | None) -> dict[str, Any]:
    """The facts as a JSON-ready record. role: `reference`, `train` or `generated`."""
    others = {"reference": reference} | ({} if train is None else {"train": train})
    return {
        "role": role,
        "num_images": len(one),
        "digest": one.digest,
        "num_duplicates": one.num_duplicates,
        "skipped": [f"{item.name}: {item.reason}" for item in one.skipped],
        **{f"num_in_{name}": _num_shared(one, other) for name, other in others.items() if name != role},
    }


def notes_on_sets(
    reference: FeatureSet, train: FeatureSet | None, generated: Sequence[FeatureSet], *, yardstick: Yardstick
) -> list[str]:
    """What a user should hear about these sets, as sentences without their full stops."""
    notes = []
    if yardstick.is_halved:
        notes.append(
            f"no training images were named, so {reference.label} is halved: each half is the reference once, "
            f"the other half gives the floor (n = {yardstick.num_images})"
        )
    fewest = min(generated, key=len)
    if len(fewest) == yardstick.num_generated < max(map(len, generated)):
        notes.append(
            f"{fewest.label} has the fewest images, so all distances are of {yardstick.num_generated} generated "
            "images; of larger sets they are means over draws"
        )
    for one in (reference, *(() if train is None else (train,)), *generated):
        if one.skipped:
            first = one.skipped[0]
            left_out = "1 broken image was" if len(one.skipped) == 1 else f"{len(one.skipped)} broken images were"
            notes.append(f"{one.label}: {left_out} left out, e.g. {first.name} ({first.reason})")
        if one.num_duplicates:
            notes.append(f"{one.label}: {one.num_duplicates} of {len(one)} images repeat another one exactly")
    for others, what in ((reference, "the reference"), (train, "the training images")):
        if others is None:
            continue
        for one in generated:
            if copies := _num_shared(one, others):
                notes.append(f"{one.label}: {copies} of {len(one)} images are exact copies of {what}")
    for place, one in enumerate(generated):
        for other in generated[:place]:
            if sorted(one.pixel_digests) == sorted(other.pixel_digests):
                notes.append(f"{other.label} and {one.label} hold the same images")
    if train is not None and (shared := _num_shared(reference, train)):
        notes.append(f"{shared} images are in the reference and among the training images: the floor is too low")
    return notes


def _num_shared(one: FeatureSet, other: FeatureSet) -> int:
    """How many images of the one are in the other, pixel for pixel."""
    known = set(other.pixel_digests)
    return sum(digest in known for digest in one.pixel_digests)
