"""Boxes of a stated area, one per image, that grow where they are."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw

MAX_ASPECT = 2.0
"""A box is at most this many times as tall as wide (in shares of the image's sides), or as wide as tall."""


def draw_boxes(batch: int, *, generator: torch.Generator, device: torch.device) -> Draw:
    """Each image's box: its place between the borders in [0, 1], and the logarithm of its aspect in [-1, 1]."""
    uniform_3B = torch.rand(3, batch, generator=generator).to(device, non_blocking=True)
    return {"row_B": uniform_3B[0], "column_B": uniform_3B[1], "aspect_B": 2 * uniform_3B[2] - 1}


def box_masks(images_BCHW: Tensor, draw: Draw, *, area: float) -> Tensor:
    """How much of every pixel its image's box covers, (B, 1, H, W): exactly the share `area` of every image.

    A larger box contains the smaller one: its relative place between the borders is fixed, not its centre, so that it
    never has to be cut off.
    """
    # Neither side may be longer than the image's.
    aspect_B = (MAX_ASPECT ** draw["aspect_B"].to(images_BCHW.dtype)).clamp(min=area, max=1 / area)
    height_B, width_B = (area * aspect_B).sqrt(), (area / aspect_B).sqrt()
    rows_BH = _covered(draw["row_B"], height_B, size_px=images_BCHW.shape[-2])
    columns_BW = _covered(draw["column_B"], width_B, size_px=images_BCHW.shape[-1])
    return (rows_BH[:, :, None] * columns_BW[:, None, :])[:, None]


def _covered(place_B: Tensor, length_B: Tensor, *, size_px: int) -> Tensor:
    """The covered share of every pixel of a line, by an interval of `length_B` of the line at `place_B`."""
    start_B1 = (place_B.to(length_B.dtype) * (1 - length_B) * size_px)[:, None]
    end_B1 = start_B1 + (length_B * size_px)[:, None]
    pixel_N = torch.arange(size_px, dtype=length_B.dtype, device=length_B.device)
    return (torch.minimum(end_B1, pixel_N + 1) - torch.maximum(start_B1, pixel_N)).clamp(0, 1)
