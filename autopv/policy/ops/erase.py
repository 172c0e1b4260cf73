"""A box of the image, erased."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, survival_step

MAX_ASPECT = 2.0
"""A box is at most this many times as tall as wide (in shares of the image's sides), or as wide as tall."""


@register
class Erase(Op):
    """One box, somewhere inside the image, filled with the image's mean colour.

    The box has exactly the area asked for: its edges may cut pixels, which then are filled in part. With one draw,
    a larger box contains the smaller one (its relative place between the borders is what is drawn, not its centre,
    so that it never has to be cut off).
    A step erases the share (target - source) / (1 - source) of the image, so that an average pixel survives with the
    ratio of survival probabilities; boxes are not independent pixels, so it is approximate.
    """

    name = "erase"
    magnitude_name = "area"
    unit = "share of the image's area"
    low = 0.005
    high = 0.9
    deterministic = False
    exact = False
    monotone = True
    group = "missing"
    built_on = "torch: kornia loops over the samples, torchvision erases one box for all; neither grows a box"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's box: its place between the borders in [0, 1], and the logarithm of its aspect in [-1, 1]."""
        uniform_3B = torch.rand(3, shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        return {"row_B": uniform_3B[0], "column_B": uniform_3B[1], "aspect_B": 2 * uniform_3B[2] - 1}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their boxes filled."""
        if target == source:
            return images_BCHW
        area = survival_step(source, target)
        # Neither side may be longer than the image's.
        aspect_B = (MAX_ASPECT ** draw["aspect_B"].to(images_BCHW.dtype)).clamp(min=area, max=1 / area)
        height_B, width_B = (area * aspect_B).sqrt(), (area / aspect_B).sqrt()
        rows_BH = _covered(draw["row_B"], height_B, size_px=images_BCHW.shape[-2])
        columns_BW = _covered(draw["column_B"], width_B, size_px=images_BCHW.shape[-1])
        mask_B1HW = (rows_BH[:, :, None] * columns_BW[:, None, :])[:, None]
        return torch.lerp(images_BCHW, images_BCHW.mean(dim=(-2, -1), keepdim=True), mask_B1HW)


def _covered(place_B: Tensor, length_B: Tensor, *, size_px: int) -> Tensor:
    """The covered share of every pixel of a line, by an interval of `length_B` of the line at `place_B`."""
    start_B1 = (place_B.to(length_B.dtype) * (1 - length_B) * size_px)[:, None]
    end_B1 = start_B1 + (length_B * size_px)[:, None]
    pixel_N = torch.arange(size_px, dtype=length_B.dtype, device=length_B.device)
    return (torch.minimum(end_B1, pixel_N + 1) - torch.maximum(start_B1, pixel_N)).clamp(0, 1)
