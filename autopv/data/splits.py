"""The train, search and final splits: who may see which image."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.data.images import ImageSet
from autopv.errors import DataError

# Below this a distance's own floor is larger than any difference between two policies that it could show.
MIN_SPLIT = 20
# More images than this sharpen a distance little and cost every trial time; the rest is worth more as training data.
MAX_HELD_OUT = 512
# Of all images, for the search split and again for the final split.
_HELD_OUT_PERCENT = 20
_HELD_OUT = ("search", "final")


@dataclass(frozen=True, eq=False)
class Splits:
    """Ascending image indices (int64) of each split: train trains, search ranks, final is for verification alone."""

    train: Tensor
    search: Tensor
    final: Tensor
    digest: str

    def rows(self, split: str) -> Tensor:
        """The indices of the split of that name."""
        indices: Tensor = {"train": self.train, "search": self.search, "final": self.final}[split]
        return indices

    def key(self, split: str, *, of: str = "images") -> str:
        """What a split's rows of a tensor (`images`, `masks`) are kept under, where they are kept in a file."""
        # The digest covers every pixel, and who is in which split.
        return f"{self.digest} {split} {of}"


@dataclass(frozen=True)
class _Unit:
    """Images that must stay together: one object, or exact copies."""

    images: tuple[int, ...]
    label: int
    rank: str


def split_images(image_set: ImageSet, *, seed: int) -> Splits:
    """60/20/20 splits, search and final at most MAX_HELD_OUT images each, with the classes in proportion.

    Images of one group, and exact copies, are never on two sides. An image's place depends on the seed and the names,
    not on the size it was loaded at (as long as the same images are copies) nor on any library's random numbers.
    Raises: DataError when a split would hold fewer than MIN_SPLIT images, telling how many are needed.
    """
    needed = -(-MIN_SPLIT * 100 // _HELD_OUT_PERCENT)
    if len(image_set) < needed:
        raise DataError(
            f"the splits need at least {needed} images (train, search and final each hold {MIN_SPLIT} or more), but "
            f"{image_set.source!r} has {len(image_set)}; add {needed - len(image_set)}"
        )
    units = sorted(_make_units(image_set, seed=seed), key=lambda unit: unit.rank)
    target = min(MAX_HELD_OUT, len(image_set) * _HELD_OUT_PERCENT // 100)
    sides = _assign(units, target=target)
    for name, chosen in sides.items():
        held = sum(len(unit.images) for unit in chosen)
        if held < MIN_SPLIT:
            largest = max(len(unit.images) for unit in units)
            raise DataError(
                f"each split needs at least {MIN_SPLIT} images, but {name} gets {held}: groups and exact copies stay "
                f"on one side, and the {len(image_set)} images of {image_set.source!r} form {len(units)} of them, the "
                f"largest of {largest} images; use a finer group_by pattern, remove copies, or add images"
            )
    indices = {
        name: torch.tensor(sorted(index for unit in chosen for index in unit.images), dtype=torch.int64)
        for name, chosen in sides.items()
    }
    digest = hashlib.sha256(image_set.digest.encode())
    for name in ("train", *_HELD_OUT):
        digest.update(f"{name} {indices[name].tolist()}".encode())
    return Splits(train=indices["train"], search=indices["search"], final=indices["final"], digest=digest.hexdigest())


def _assign(units: Sequence[_Unit], *, target: int) -> Mapping[str, Sequence[_Unit]]:
    """Units by split. Held-out splits fill class by class up to their quotas; what does not fit is trained on."""
    sides: dict[str, list[_Unit]] = {name: [] for name in _HELD_OUT}
    rest = list(units)
    for name in _HELD_OUT:
        room = target
        quotas = _quotas(rest, total=target)
        # Large groups may leave a class's quota unfilled: the second round fills up from any class.
        for by_class in (True, False):
            left = []
            for unit in rest:
                size = len(unit.images)
                if size <= room and (not by_class or size <= quotas[unit.label]):
                    sides[name].append(unit)
                    room -= size
                    quotas[unit.label] -= size
                else:
                    left.append(unit)
            rest = left
    return {"train": rest, **sides}


def _quotas(units: Sequence[_Unit], *, total: int) -> dict[int, int]:
    """`total` images shared out over the classes in proportion to their sizes, by largest remainders."""
    sizes: dict[int, int] = defaultdict(int)
    # Units come in the order of their ranks, so equal remainders are settled by the seed and not by the class's name.
    for unit in units:
        sizes[unit.label] += len(unit.images)
    available = sum(sizes.values())
    quotas = {label: size * total // available for label, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda label: -(sizes[label] * total % available))
    for label in by_remainder[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def _make_units(image_set: ImageSet, *, seed: int) -> list[_Unit]:
    parents = list(range(len(image_set)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_seen: dict[tuple[str, str], int] = {}
    for index, group in enumerate(image_set.groups):
        copy = hashlib.sha256(image_set.images_NCHW[index].numpy().tobytes()).hexdigest()
        for key in (("group", group), ("copy", copy)):
            other = root(first_seen.setdefault(key, index))
            # The smallest index is the root, so that a unit's name does not depend on the order of merging.
            low, high = sorted((other, root(index)))
            parents[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for index in range(len(image_set)):
        members[root(index)].append(index)
    return [
        _Unit(
            images=tuple(images),
            label=0 if image_set.labels is None else image_set.labels[first],
            rank=hashlib.sha256(f"{seed}\n{image_set.names[first]}".encode("utf-8", "surrogateescape")).hexdigest(),
        )
        for first, images in members.items()
    ]
