"""Images from an .npy or .npz file, and their defect masks where an .npz file has them."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopv.data.channels import stack_images
from autopv.data.decode import resize_array
from autopv.data.loaded import Loaded
from autopv.data.masks import fit_mask
from autopv.errors import DataError

SUFFIXES = (".npy", ".npz")
_IMAGE_KEYS = ("images", "x", "arr_0")
_LABEL_KEYS = ("labels", "y")
_MASK_KEY = "masks"
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False, kw_only=True)
class StoredArray:
    """What an array file holds, at its own size: images (N, H, W, C) with C = 1, 3 or 4, classes, masks (N, H, W)."""

    pixels_NHWC: NDArray[np.uint8]
    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    masks_NHW: NDArray[np.bool_] | None


def load_array(path: Path, *, size_px: int) -> Loaded:
    """Images named by their number, with classes and masks where an .npz file has `labels` and `masks`.

    The file holds (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4: uint8 or uint16 of full range, or float
    in [0, 1]. Masks are (N, H, W), or with one channel, bool or uint8: any value but zero marks a defect.
    Raises: DataError.
    """
    stored = read_array(path)
    images_NHWC = stored.pixels_NHWC
    if images_NHWC.shape[-1] == 1:
        images_NHWC = images_NHWC[..., 0]
    masks_NHW = stored.masks_NHW
    return Loaded(
        pixels_NHWC=stack_images([resize_array(np.ascontiguousarray(image), size_px=size_px) for image in images_NHWC]),
        names=stored.names,
        classes=stored.classes,
        masks_NHW=None if masks_NHW is None else np.stack([fit_mask(marks, size_px=size_px) for marks in masks_NHW]),
    )


def read_array(path: Path) -> StoredArray:
    """What `load_array` loads, before anything is cropped or resized.

    Raises: DataError.
    """
    raw, labels, masks = _read(path)
    images_NHWC = _to_uint8(_channels_last(raw, path=path), path=path)
    count = len(images_NHWC)
    if labels is not None and labels.shape != (count,):
        raise DataError(
            f"labels must be one per image, shape ({count},), but those of {str(path)!r} have {labels.shape}"
        )
    return StoredArray(
        pixels_NHWC=images_NHWC,
        names=tuple(f"{index:06d}" for index in range(count)),
        classes=None if labels is None else tuple(str(label) for label in labels.tolist()),
        masks_NHW=None if masks is None else _marks(masks, size=images_NHWC.shape[:3], path=path),
    )


def _read(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None, NDArray[np.generic] | None]:
    try:
        # Opened here, because NumPy leaves a file open that it cannot read.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None, None
            names = list(loaded.files)
            image_key = names[0] if len(names) == 1 else next((key for key in _IMAGE_KEYS if key in names), None)
            if image_key is None:
                raise DataError(
                    f"an .npz file must hold one array, or its images under one of {', '.join(_IMAGE_KEYS)}, "
                    f"but {str(path)!r} holds {', '.join(names) or 'nothing'}"
                )
            label_key = next((key for key in _LABEL_KEYS if key in names), None)
            # A file of masks alone is taken for images, like any one array.
            masks = loaded[_MASK_KEY] if _MASK_KEY in names and image_key != _MASK_KEY else None
            return loaded[image_key], loaded[label_key] if label_key else None, masks
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"an array file must be NumPy's, without pickled objects, but reading {str(path)!r} failed: {error}"
        ) from error


def _marks(masks: NDArray[np.generic], *, size: tuple[int, ...], path: Path) -> NDArray[np.bool_]:
    if masks.dtype not in (np.bool_, np.uint8):
        raise DataError(f"masks must be bool or uint8, but those of {str(path)!r} are {masks.dtype}")
    count, height, width = size
    if masks.shape not in ((count, height, width), (count, 1, height, width), (count, height, width, 1)):
        raise DataError(
            f"masks must be one per image and of its size, shape {size} or with one channel, but those of "
            f"{str(path)!r} have {masks.shape}"
        )
    return masks.reshape(size).astype(bool)


def _channels_last(raw: NDArray[np.generic], *, path: Path) -> NDArray[np.generic]:
    if raw.ndim == 3:
        raw = raw[..., None]
    elif raw.ndim == 4:
        last, second = raw.shape[3] in _CHANNELS, raw.shape[1] in _CHANNELS
        if second and not last:
            raw = raw.transpose(0, 2, 3, 1)
        elif last and second and raw.shape[1] != raw.shape[2]:
            raise DataError(
                f"it must be clear which axis is the channels, but both ends of {raw.shape} in {str(path)!r} could be; "
                "save the images as (N, H, W) or pad them"
            )
    if raw.ndim != 4 or raw.shape[3] not in _CHANNELS or 0 in raw.shape:
        raise DataError(
            "an array of images must have the shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4 and "
            f"N >= 1, but {str(path)!r} has {raw.shape}"
        )
    return raw


def _to_uint8(images: NDArray[np.generic], *, path: Path) -> NDArray[np.uint8]:
    if images.dtype == np.uint8:
        return images.astype(np.uint8, copy=False)
    if images.dtype == np.uint16:
        return (images.astype(np.float32) * (255 / 65535)).round().astype(np.uint8)
    if images.dtype.kind != "f":
        raise DataError(f"images must be uint8, uint16, or float in [0, 1], but {str(path)!r} holds {images.dtype}")
    values = images.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise DataError(
            f"float images must be finite and in [0, 1], but those of {str(path)!r} range from {low:.4g} to "
            f"{high:.4g}; rescale them, or save them as uint8"
        )
    return (values * 255).round().astype(np.uint8)
