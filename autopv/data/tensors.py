"""Between stored images (uint8) and images to compute with (float32 in [0, 1])."""

import torch
from torch import Tensor

from autopv.errors import DataError


def to_float(images_uint8: Tensor) -> Tensor:
    """The images as float32 in [0, 1]; `to_uint8` gives back the same bytes."""
    if images_uint8.dtype != torch.uint8:
        raise DataError(f"stored images must be uint8, but got {images_uint8.dtype}")
    return images_uint8.to(torch.float32) / 255


def to_uint8(images: Tensor) -> Tensor:
    """Float images rounded to 256 levels, clamped to [0, 1] first."""
    if not images.is_floating_point():
        raise DataError(f"images to store must be floating-point, but got {images.dtype}")
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
