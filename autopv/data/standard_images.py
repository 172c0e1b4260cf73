"""The images of the standard sets: torchvision's training split, which autopv makes its own splits of."""

import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopv.data.channels import stack_images
from autopv.data.decode import resize_array
from autopv.data.folder import decode_folder
from autopv.data.loaded import Loaded
from autopv.data.standard import (
    CELEBA_IMAGES,
    CELEBA_PARTITION,
    StandardSet,
    damaged,
    find_standard,
    torchvision_class,
)

CELEBA_SIZE_PX = (178, 218)
# The centre 140 x 140 of the aligned faces: what score-based and diffusion models take CelebA at 64 px from (NCSNv2,
# arXiv 2006.09011; Score SDE, arXiv 2011.13456), and Wasserstein auto-encoders before them (arXiv 1711.01558). NVAE's
# 148 px, a little above the centre, is the other custom.
CELEBA_CROP_PX = 140
CELEBA_SQUARE_SHARE = CELEBA_CROP_PX / min(CELEBA_SIZE_PX)
# Digits of 28 px get a black border to 32 px, as is usual for networks that halve their input again and again.
_MNIST_BORDER_PX = 2
# What reading a damaged file raises; CIFAR's are pickles whose md5 was checked.
_DAMAGES = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    IndexError,
    KeyError,
    AssertionError,
    TypeError,
    pickle.PickleError,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class StandardImages:
    """The training images (N, H, W, C) at their own size, with C = 1 or 3, and the class of each.

    border_px: how much black belongs around them at every size but their own.
    """

    pixels_NHWC: NDArray[np.uint8]
    classes: tuple[str, ...]
    border_px: int

    @property
    def names(self) -> tuple[str, ...]:
        """Each image's number in the training split."""
        return tuple(f"{index:06d}" for index in range(len(self.classes)))

    def with_border(self) -> NDArray[np.uint8]:
        """The images with their border."""
        border = (self.border_px, self.border_px)
        return np.pad(self.pixels_NHWC, ((0, 0), border, border, (0, 0))) if self.border_px else self.pixels_NHWC


@dataclass(frozen=True, kw_only=True)
class StandardFiles:
    """A set of image files: the training images' names below the folder. Nothing is decoded."""

    folder: Path
    names: tuple[str, ...]
    square_share: float


def load_standard(chosen: StandardSet, *, size_px: int) -> Loaded:
    """The training images at size_px, with their classes where the set has any (CelebA has none).

    MNIST's kind are padded with black to 32 px first (at 28 px they are taken as they are). Of CelebA the centre
    140 x 140 is taken, and what was decoded is kept in the cache; who is shown is not used as a group, as held-out
    splits of 512 images would show two dozen people.
    Raises: DataError where the set is missing, damaged, or cannot be downloaded.
    """
    opened = open_standard(chosen)
    if isinstance(opened, StandardFiles):
        return _decode(chosen, opened, size_px=size_px)
    own_px = opened.pixels_NHWC.shape[1]
    pixels_NHWC = opened.pixels_NHWC if size_px == own_px else opened.with_border()
    if size_px != pixels_NHWC.shape[1]:
        pixels_NHWC = stack_images([_resized(image_HWC, size_px=size_px) for image_HWC in pixels_NHWC])
    return Loaded(pixels_NHWC=pixels_NHWC, names=opened.names, classes=opened.classes)


def open_standard(chosen: StandardSet) -> StandardImages | StandardFiles:
    """The training images of a set, or where they lie if they are files. Raises: DataError as `load_standard` does."""
    folder = find_standard(chosen)
    reader = torchvision_class(chosen.name)
    if chosen.name == "celeba":
        return _celeba_files(chosen, folder, base=reader.base_folder)
    with _telling(chosen, folder):
        dataset = reader(root=str(folder), train=True)
        pixels = np.asarray(dataset.data)
        classes = tuple(str(dataset.classes[int(target)]) for target in dataset.targets)
        if len(classes) != len(pixels):
            raise ValueError(f"there are {len(pixels)} images and {len(classes)} labels")
    is_grey = pixels.ndim == 3
    return StandardImages(
        pixels_NHWC=pixels[..., None] if is_grey else pixels,
        classes=classes,
        border_px=_MNIST_BORDER_PX if is_grey else 0,
    )


def _celeba_files(chosen: StandardSet, folder: Path, *, base: str) -> StandardFiles:
    with _telling(chosen, folder):
        rows = [line.split() for line in (folder / base / CELEBA_PARTITION).read_text(encoding="ascii").splitlines()]
        # 0 is the training part, 1 validation, 2 test.
        names = tuple(sorted(name for name, part in (row for row in rows if row) if part == "0"))
        if not names:
            raise ValueError(f"{CELEBA_PARTITION} names no training image")
        missing = sorted(set(names) - set(os.listdir(folder / base / CELEBA_IMAGES)))
    if missing:  # told before minutes are spent on decoding the others
        raise damaged(chosen, folder, f"{len(missing)} training images are missing, such as {missing[0]!r}")
    return StandardFiles(folder=folder / base / CELEBA_IMAGES, names=names, square_share=CELEBA_SQUARE_SHARE)


def _decode(chosen: StandardSet, files: StandardFiles, *, size_px: int) -> Loaded:
    root = files.folder.parent.parent
    loaded = decode_folder(files.folder, files.names, size_px=size_px, square_share=files.square_share)
    if loaded.skipped:
        broken = loaded.skipped[0]
        count = len(loaded.skipped)
        raise damaged(chosen, root, f"{count} training images are broken, such as {broken.name!r}: {broken.reason}")
    return loaded


def _resized(image_HWC: NDArray[np.uint8], *, size_px: int) -> NDArray[np.uint8]:
    return resize_array(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC, size_px=size_px)


@contextmanager
def _telling(chosen: StandardSet, folder: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # CIFAR's pickles are older than the ways in which NumPy wants to be called today.
            warnings.simplefilter("ignore")
            yield
    except _DAMAGES as error:
        raise damaged(chosen, folder, f"files are damaged ({_in_one_line(error)})") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
