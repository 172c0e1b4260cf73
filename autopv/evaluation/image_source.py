"""A set of images that is read piece by piece, so that memory does not grow with it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopv.data.channels import stack_images, with_channels
from autopv.data.decode import resize_array
from autopv.data.images import MAX_SIZE_PX, MIN_SIZE_PX
from autopv.data.loaded import Skipped
from autopv.data.masks import fit_mask
from autopv.data.tensors import to_uint8
from autopv.errors import DataError

# A distance between sets, whose spread has to be known, means nothing below this.
MIN_IMAGES = 2
# Float arithmetic overshoots [0, 1] by a trace; more is another range by mistake.
_RANGE_SLACK = 1e-3
# One image (S, S) or (S, S, 3) and its mask, or why it was left out.
Decoded = tuple[NDArray[np.uint8], NDArray[np.bool_] | None] | Skipped


class SourceChangedError(DataError):
    """Images that changed while they were read."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Chunk:
    """Some images of a source: uint8 (n, C, S, S) on the CPU, and their defect masks, bool (n, S, S), where it has any.

    indices: which images of the source these are; ascending, without those in `skipped`.
    """

    images_NCHW: Tensor
    masks_NHW: Tensor | None
    indices: tuple[int, ...]
    skipped: tuple[Skipped, ...]


class ImageSource(ABC):
    """Images by number, read when asked for: centre-cropped to squares and resized as training images are.

    label: what it is called in tables and errors. kind: `folder`, `array`, `demo`, `standard`, `model` or `tensors`.
    classes: of each image, or None where the source knows none.
    has_masks: whether it is known where defects are; an image without a mask is then one without a defect.
    """

    def __init__(
        self, label: str, *, kind: str, names: Sequence[str], classes: Sequence[str] | None, has_masks: bool
    ) -> None:
        if len(names) < MIN_IMAGES:
            raise DataError(
                f"a set to evaluate needs at least {MIN_IMAGES} images, but {label!r} has {len(names)}; add images"
            )
        if classes is not None and len(classes) != len(names):
            raise DataError(f"classes must be one per image ({len(names)}), but {label!r} has {len(classes)}")
        self.label = label
        self.kind = kind
        self.names = tuple(names)
        self.classes = None if classes is None else tuple(classes)
        self.has_masks = has_masks

    def __len__(self) -> int:
        return len(self.names)

    @property
    @abstractmethod
    def side_px(self) -> int | None:
        """The shorter side of the images as they are stored; None where they differ. Nothing is decoded."""

    @abstractmethod
    def fingerprint(self, start: int, stop: int) -> str:
        """A hash that is another one whenever images start..stop would be."""

    def read(self, start: int, stop: int, *, size_px: int, channels: int) -> Chunk:
        """Images start..stop at size_px. With 1 channel colour becomes luma; with 3 grey is repeated.

        A broken image or mask is left out and told in `skipped`. Equal calls give equal bytes, and reading in other
        pieces gives the same images.
        Raises: DataError.
        """
        if not 0 <= start < stop <= len(self):
            raise DataError(f"0 <= start < stop <= {len(self)} must hold, but got start={start}, stop={stop}")
        if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
            raise DataError(f"{MIN_SIZE_PX} <= size_px <= {MAX_SIZE_PX} must hold, but got size_px={size_px}")
        if channels not in (1, 3):
            raise DataError(f"channels must be 1 (grey) or 3 (colour), but got {channels}")
        decoded = self._decode(start, stop, size_px=size_px)
        kept = [(start + place, *one) for place, one in enumerate(decoded) if not isinstance(one, Skipped)]
        images_NCHW = torch.zeros(0, channels, size_px, size_px, dtype=torch.uint8)
        if kept:
            pixels_NHWC = with_channels(stack_images([image for _, image, _ in kept]), channels)
            images_NCHW = torch.from_numpy(np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2)))
        masks_NHW = None
        if self.has_masks:
            masks_NHW = torch.zeros(len(kept), size_px, size_px, dtype=torch.bool)
            for row, (_, _, mask) in enumerate(kept):
                if mask is not None:
                    masks_NHW[row] = torch.from_numpy(mask)
        return Chunk(
            images_NCHW=images_NCHW,
            masks_NHW=masks_NHW,
            indices=tuple(index for index, _, _ in kept),
            skipped=tuple(one for one in decoded if isinstance(one, Skipped)),
        )

    def check_unchanged(self) -> None:
        """Nothing, while the source lists the images it listed when it was opened. Raises: SourceChangedError."""
        return None

    @abstractmethod
    def _decode(self, start: int, stop: int, *, size_px: int) -> Sequence[Decoded]:
        """Each of the images, grey ones without a channel axis, or why it is left out."""


class TensorSource(ImageSource):
    """Images held in memory: (N, C, H, W) with 1, 3 or 4 channels (the fourth is alpha), uint8 or float in [0, 1].

    masks_NHW: bool, true where a defect is. names: default the images' numbers. Neither images nor masks may be
    changed afterwards: their fingerprints are taken once.
    """

    def __init__(
        self,
        images_NCHW: Tensor,
        *,
        label: str,
        names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        masks_NHW: Tensor | None = None,
        kind: str = "tensors",
    ) -> None:
        self._images_NCHW = _checked_images(images_NCHW, label=label)
        count, _, height, width = images_NCHW.shape
        if names is not None and len(names) != count:
            raise DataError(f"names must be one per image ({count}), but {label!r} has {len(names)}")
        if masks_NHW is not None and (
            masks_NHW.dtype != torch.bool or tuple(masks_NHW.shape) != (count, height, width)
        ):
            raise DataError(
                f"masks must be bool, one per image and of its size, shape {(count, height, width)}, but those of "
                f"{label!r} are {masks_NHW.dtype} with shape {tuple(masks_NHW.shape)}"
            )
        super().__init__(
            label,
            kind=kind,
            names=[f"{index:06d}" for index in range(count)] if names is None else names,
            classes=classes,
            has_masks=masks_NHW is not None,
        )
        self._masks_NHW = None if masks_NHW is None else masks_NHW.cpu()
        self._fingerprints: dict[tuple[int, int], str] = {}

    @property
    def side_px(self) -> int:
        return int(min(self._images_NCHW.shape[-2:]))

    def fingerprint(self, start: int, stop: int) -> str:
        known = self._fingerprints.get((start, stop))
        if known is None:
            images_NCHW = self._images_NCHW[start:stop].contiguous()
            content = hashlib.sha256(f"pixels {tuple(images_NCHW.shape)}".encode())
            content.update(images_NCHW.numpy().data)
            if self._masks_NHW is not None:
                content.update(self._masks_NHW[start:stop].contiguous().numpy().data)
            known = self._fingerprints[start, stop] = content.hexdigest()
        return known

    def _decode(self, start: int, stop: int, *, size_px: int) -> Sequence[Decoded]:
        decoded: list[Decoded] = []
        for index in range(start, stop):
            image = fit_image(self._images_NCHW[index], size_px=size_px)
            mask = None if self._masks_NHW is None else fit_mask(self._masks_NHW[index].numpy(), size_px=size_px)
            decoded.append((image, mask))
        return decoded


def fit_image(image_CHW: Tensor, *, size_px: int) -> NDArray[np.uint8]:
    """A uint8 image with 1, 3 or 4 channels as (size_px, size_px), or with a last axis of 3 for colour."""
    pixels_HWC = np.ascontiguousarray(image_CHW.permute(1, 2, 0).numpy())
    return resize_array(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC, size_px=size_px)


def quantised(images_NCHW: Tensor, *, label: str) -> Tensor:
    """Float images in [0, 1] as uint8 on the CPU, as a PNG file would hold them.

    Raises: DataError for values that are not finite or far outside.
    """
    low, high = (float(bound) for bound in images_NCHW.aminmax())
    # Written so that not-a-number fails it.
    if not (low >= -_RANGE_SLACK and high <= 1 + _RANGE_SLACK):
        raise DataError(
            f"float images must be finite and in [0, 1], but those of {label!r} range from {low:.4g} to {high:.4g}; "
            "rescale them, or, of a model, take a checkpoint that samples finite images"
        )
    return to_uint8(images_NCHW).cpu()


def _checked_images(images_NCHW: Tensor, *, label: str) -> Tensor:
    shape = tuple(images_NCHW.shape)
    if len(shape) != 4 or shape[1] not in (1, 3, 4) or 0 in shape[2:]:
        raise DataError(f"images must have the shape (N, C, H, W) with C = 1, 3 or 4, but {label!r} has {shape}")
    if images_NCHW.dtype == torch.uint8:
        return images_NCHW.detach().cpu()
    if not images_NCHW.is_floating_point():
        raise DataError(f"images must be uint8, or float in [0, 1], but {label!r} holds {images_NCHW.dtype}")
    return images_NCHW if shape[0] == 0 else quantised(images_NCHW.detach(), label=label)
