"""The class of each image as a label to train with: what its sub-folder says, or that nobody knows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.data.images import ImageSet
from autopv.errors import DataError

NO_CLASS = "."
"""The class of images that lie beside the class folders."""
# In an array file labels of -1 say the same, as they do in scikit-learn.
_UNLABELLED = (NO_CLASS, "-1")


@dataclass(frozen=True, eq=False)
class ClassLabels:
    """names: of the classes. labels_N: int64, for each image an index into them, or -1 where its class is not known."""

    names: tuple[str, ...]
    labels_N: Tensor

    @property
    def counts(self) -> tuple[int, ...]:
        """How many images each class has, and at the end how many have none."""
        found: list[int] = torch.bincount(self.labels_N + 1, minlength=len(self.names) + 1).tolist()
        return (*found[1:], found[0])

    @property
    def by_name(self) -> dict[str, int]:
        """The counts by the names of the classes, at the end that of NO_CLASS."""
        return dict(zip((*self.names, NO_CLASS), self.counts, strict=True))


def class_labels(image_set: ImageSet, rows: Tensor | None = None) -> ClassLabels:
    """The labels of these images (default: all) and the classes that are among them, sorted.

    Raises: DataError where there are fewer than two classes.
    """
    names = classes_of_images(image_set) or (NO_CLASS,) * len(image_set)
    chosen = names if rows is None else [names[row] for row in rows.tolist()]
    classes = tuple(sorted(set(chosen) - {NO_CLASS}))
    if len(classes) < 2:
        found = f"of one class alone, {classes[0]!r}" if classes else "of no class"
        raise DataError(
            f"to train by class, images of two classes or more are needed, but those of {image_set.source!r} are "
            f"{found}; sort them into sub-folders named after their classes, such as good/ and crack/ (images beside "
            "the folders count as unlabelled), or put `labels` into the .npz file; or leave --classes out"
        )
    index = {name: number for number, name in enumerate(classes)} | {NO_CLASS: -1}
    return ClassLabels(classes, torch.tensor([index[name] for name in chosen], dtype=torch.int64))


def classes_of_images(image_set: ImageSet) -> tuple[str, ...] | None:
    """The name of each image's class, NO_CLASS where it is not known; None for a set without classes."""
    if image_set.labels is None:
        return None
    return tuple(_name(image_set.class_names, label) for label in image_set.labels)


def _name(class_names: Sequence[str], label: int) -> str:
    return NO_CLASS if class_names[label] in _UNLABELLED else class_names[label]
