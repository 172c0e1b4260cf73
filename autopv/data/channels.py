"""Grey and colour images as one array, and one turned into the other."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# ITU-R BT.601: what Pillow turns colour into grey with.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def stack_images(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Grey (S, S) and colour (S, S, 3) images as one array (N, S, S, C): C = 1 if all are grey, else 3."""
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[..., None]
    return np.stack([image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images])


def with_channels(pixels_NHWC: NDArray[np.uint8], channels: int | None) -> NDArray[np.uint8]:
    """Images (N, H, W, C) of so many channels: colour becomes luma, grey is repeated; None leaves them as they are."""
    if channels is None or channels == pixels_NHWC.shape[-1]:
        return pixels_NHWC
    if channels == 3:
        return np.repeat(pixels_NHWC, 3, axis=-1)
    return (pixels_NHWC @ _LUMA).round().astype(np.uint8)[..., None]
