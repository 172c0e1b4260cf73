"""Labels to train with: from sub-folders, from arrays, and of images whose class nobody knows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.data.class_labels import NO_CLASS, class_labels, classes_of_images
from autopv.data.images import ImageSet, load_images
from autopv.errors import DataError


def folder_of(path: Path, *names: str) -> ImageSet:
    for place, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), place, dtype=np.uint8)).save(path / name)
    return load_images(path, size_px=8)


def array_of(path: Path, labels: list[object]) -> ImageSet:
    images = np.zeros((len(labels), 8, 8), dtype=np.uint8)
    np.savez(path / "images.npz", images=images, labels=np.array(labels))
    return load_images(path / "images.npz", size_px=8)


def test_sub_folders_are_classes_and_images_beside_them_have_none(tmp_path: Path) -> None:
    image_set = folder_of(tmp_path, "good/a.png", "crack/b.png", "c.png", "good/d.png")
    labels = class_labels(image_set)
    assert labels.names == ("crack", "good")
    by_name = dict(zip(image_set.names, labels.labels_N.tolist(), strict=True))
    assert by_name == {"good/a.png": 1, "crack/b.png": 0, "c.png": -1, "good/d.png": 1}
    assert labels.labels_N.dtype == torch.int64
    assert labels.counts == (1, 2, 1)
    assert labels.by_name == {"crack": 1, "good": 2, NO_CLASS: 1}
    assert classes_of_images(image_set) == tuple(
        NO_CLASS if label < 0 else labels.names[label] for label in labels.labels_N
    )


def test_labels_of_arrays_are_classes_and_minus_one_is_none(tmp_path: Path) -> None:
    labels = class_labels(array_of(tmp_path, [3, -1, 7, 3]))
    assert labels.names == ("3", "7")
    assert labels.labels_N.tolist() == [0, -1, 1, 0]


def test_only_classes_among_the_chosen_images_count(tmp_path: Path) -> None:
    image_set = array_of(tmp_path, ["a", "b", "c", "b"])
    labels = class_labels(image_set, torch.tensor([1, 2, 3]))
    assert labels.names == ("b", "c")
    assert labels.labels_N.tolist() == [0, 1, 0]
    assert labels.counts == (2, 1, 0)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a.png", "b.png"), "of no class"),
        (("good/a.png", "good/b.png"), "of no class"),  # one folder alone tells nothing apart
        (("good/a.png", "b.png"), "of one class alone, 'good'"),
    ],
)
def test_fewer_than_two_classes_are_refused_with_what_is_needed(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    with pytest.raises(DataError, match=rf"{says}; sort them into sub-folders .* or leave --classes out"):
        class_labels(folder_of(tmp_path, *names))
