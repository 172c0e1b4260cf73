"""Loads the images of one domain, whatever they come as, into one uint8 tensor."""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autopv.data.arrays import SUFFIXES as ARRAY_SUFFIXES
from autopv.data.arrays import load_array
from autopv.data.demos import demo_names, load_demo
from autopv.data.filed import channels_first
from autopv.data.folder import load_folder
from autopv.data.loaded import Skipped
from autopv.data.standard import StandardSet, standard_names, unknown_standard
from autopv.data.standard_images import load_standard
from autopv.errors import DataError, nearest

__all__ = ["ImageSet", "Skipped", "list_skipped", "load_images", "unusable"]

MIN_SIZE_PX, MAX_SIZE_PX = 8, 1024
# Masks are packed so many at a time; a multiple of 8, so that each time whole bytes come out.
_PACKED_MASKS = 1024
_RULE = "data must be a folder of images, an .npy or .npz file, or the name of a demo or a standard set"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Square uint8 images of one size, with a name and a group for each.

    labels: an index into class_names for each image, or None where there are fewer than two classes.
    groups: images of one object share a group; without `group_by` every image is its own, save in sets that know.
    masks_NHW: bool (N, S, S), true where a defect is, all false for an image without one; None for a set without masks.
    """

    images_NCHW: Tensor
    names: tuple[str, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]
    groups: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    source: str
    digest: str
    masks_NHW: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images_NCHW.shape)
        if self.images_NCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
            raise DataError(
                "an image set holds square uint8 images (N, C, S, S) with 1 or 3 channels, but got "
                f"{self.images_NCHW.dtype} with shape {shape}"
            )
        for field, values in (("names", self.names), ("groups", self.groups), ("labels", self.labels)):
            if values is not None and len(values) != shape[0]:
                raise DataError(f"{field} must be one per image ({shape[0]}), but got {len(values)}")
        if self.labels is not None and not all(0 <= label < len(self.class_names) for label in self.labels):
            raise DataError(f"labels must be indices into the {len(self.class_names)} class names")
        if self.masks_NHW is not None:
            wanted, found = (shape[0], *shape[2:]), tuple(self.masks_NHW.shape)
            if self.masks_NHW.dtype != torch.bool or found != wanted:
                raise DataError(
                    f"masks must be bool, one per image and of its size, shape {wanted}, but got "
                    f"{self.masks_NHW.dtype} with shape {found}"
                )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def size_px(self) -> int:
        """Side of the images."""
        return int(self.images_NCHW.shape[-1])

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour."""
        return int(self.images_NCHW.shape[1])

    @property
    def has_masks(self) -> bool:
        """Whether it is known where each image's defects are."""
        return self.masks_NHW is not None

    @property
    def num_defective(self) -> int:
        """How many images have a defect somewhere in their mask; 0 for a set without masks."""
        return 0 if self.masks_NHW is None else int(self.masks_NHW.flatten(1).any(dim=1).sum())


def load_images(
    source: str | Path,
    *,
    size_px: int,
    channels: int | None = None,
    group_by: str | None = None,
    strict: bool = False,
) -> ImageSet:
    """The images of a folder, an .npy or .npz file, a demo or a standard set, centre-cropped to squares of size_px.

    Defect masks are read where a folder (`layout.find_layout` tells how), an .npz file or a demo set has them.
    Images that would not fit in memory (`memory.MEMORY_SHARE`) are mapped from a file of the cache instead of held.
    source: a set's name wins over a folder of that name (write `./elpv` for the folder). Of a standard set (`cifar10`,
    `cifar10:FOLDER`) the images are those of its training split.
    channels: 1 or 3; default 1 if every image is grey, else 3.
    group_by: a pattern searched in each name; images that agree in its captured groups (or in the whole match, without
    any) show one object, such as r"part(\\d+)_" . It replaces the groups that a demo set comes with.
    strict: a broken image or mask is an error; else the image is left out and listed in `skipped`.
    Raises: DataError.
    """
    if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
        raise DataError(f"{MIN_SIZE_PX} <= size_px <= {MAX_SIZE_PX} must hold, but got size_px={size_px}")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (colour), but got {channels}")
    pattern = None if group_by is None else _compile(group_by)
    path = Path(os.path.expanduser(source))
    if isinstance(source, str) and source in demo_names():
        loaded = load_demo(source, size_px=size_px)
    elif isinstance(source, str) and (standard := StandardSet.parse(source)) is not None:
        loaded = load_standard(standard, size_px=size_px)
    elif path.is_dir():
        loaded = load_folder(path, size_px=size_px)
    elif path.is_file() and path.suffix.lower() in ARRAY_SUFFIXES:
        loaded = load_array(path, size_px=size_px)
    else:
        raise unusable(source, path, rule=_RULE)
    names, skipped = loaded.names, loaded.skipped
    if strict and skipped:
        raise DataError(
            f"with strict every image must be readable, but {len(skipped)} of {len(skipped) + len(names)} are broken: "
            f"{list_skipped(skipped)}; repair or remove them, or go without strict to leave them out"
        )
    images_NCHW = channels_first(loaded.pixels_NHWC, channels=channels)
    masks_NHW = None if loaded.masks_NHW is None else torch.from_numpy(loaded.masks_NHW)
    labels, class_names = _labels(loaded.classes)
    return ImageSet(
        images_NCHW=images_NCHW,
        names=names,
        labels=labels,
        class_names=class_names,
        groups=(loaded.groups or names) if pattern is None else _groups(names, pattern=pattern),
        skipped=skipped,
        source=str(source),
        digest=_digest(images_NCHW, names, masks_NHW=masks_NHW),
        masks_NHW=masks_NHW,
    )


def list_skipped(skipped: Sequence[Skipped]) -> str:
    """The first few files that were left out, each with its reason, in one line."""
    shown = "; ".join(f"{item.name} ({item.reason})" for item in skipped[:5])
    return shown if len(skipped) <= 5 else f"{shown}; and {len(skipped) - 5} more"


def unusable(source: str | Path, path: Path, *, rule: str) -> DataError:
    """The error for a source that is none of what `rule` lists, with the near name of a set or a neighbour."""
    if path.exists():
        return DataError(f"{rule}, but {str(source)!r} is another kind of file; pass the folder that holds it")
    unknown = unknown_standard(str(source))
    if unknown is not None:
        return unknown
    parent = path.parent
    if not parent.is_dir():
        return DataError(f"{rule}, but {str(source)!r} does not exist; neither does its parent folder {str(parent)!r}")
    beside = [
        item.name
        for item in parent.iterdir()
        if not item.name.startswith(".") and (item.is_dir() or item.suffix.lower() in ARRAY_SUFFIXES)
    ]
    # A bare word may be a misspelt set or a folder here; a path with folders in it is no set.
    known = [*beside, *((*demo_names(), *standard_names()) if len(path.parts) == 1 else ())]
    return DataError(f"{rule}, but {str(source)!r} does not exist.{nearest(path.name, known)}")


def _labels(classes: Sequence[str] | None) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    class_names = tuple(sorted(set(classes or ())))
    if classes is None or len(class_names) < 2:
        return None, ()
    index = {name: number for number, name in enumerate(class_names)}
    return tuple(index[name] for name in classes), class_names


def _compile(group_by: str) -> re.Pattern[str]:
    try:
        return re.compile(group_by)
    except re.error as error:
        raise DataError(
            f"group_by must be a regular expression, but {group_by!r} is not one: {error}; "
            r"for example 'part(\d+)_' groups part7_a.png with part7_b.png"
        ) from error


def _groups(names: Sequence[str], *, pattern: re.Pattern[str]) -> tuple[str, ...]:
    matches = [pattern.search(name) for name in names]
    missing = [name for name, match in zip(names, matches, strict=True) if match is None]
    if missing:
        raise DataError(
            f"group_by must match every image name, but {pattern.pattern!r} does not match {len(missing)} of "
            f"{len(names)}, such as {missing[0]!r}; widen the pattern, for example with '|'"
        )
    found = [match for match in matches if match is not None]
    # Captured parts are joined by a character that no file name holds.
    return tuple("\0".join(part or "" for part in match.groups()) if match.re.groups else match[0] for match in found)


def _digest(images_NCHW: Tensor, names: Sequence[str], *, masks_NHW: Tensor | None) -> str:
    digest = hashlib.sha256(f"{tuple(images_NCHW.shape)}\n".encode())
    digest.update("\n".join(names).encode("utf-8", "surrogateescape"))
    digest.update(images_NCHW.numpy().data)
    # Sets without masks keep the digest they had before there were any.
    if masks_NHW is not None:
        digest.update(b"masks")
        for piece_NHW in torch.split(masks_NHW, _PACKED_MASKS):
            digest.update(np.packbits(piece_NHW.numpy()).data)
    return digest.hexdigest()
