"""A plane, tilted away."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, variance_step
from autopv.policy.ops.warp import centres, pixel_places, read_at

MAX_TILT = 0.75
"""Both tilts together stay below it in absolute value; at 1 the horizon would touch a corner of the image."""


@register
class Perspective(Op):
    """Each image seen as a plane tilted about its centre; beyond the border it is reflected.

    A place (u, v), in halves of the sides from the centre, shows what was at (u, v) / (1 + a u + b v); the tilts a
    and b are zero-mean normal numbers. From the centre to the middle of an edge the scale changes by the tilt.
    Large tilts are drawn towards MAX_TILT, smoothly, so that the horizon, where the divisor is 0, stays outside.
    Variances of tilts add only nearly, and every step resamples (bilinearly) and reflects anew: approximate.
    """

    name = "perspective"
    magnitude_name = "tilt"
    unit = "standard deviation of the relative change of scale from the centre to an edge, along either axis"
    low = 0.003
    high = 0.5
    deterministic = False
    exact = False
    monotone = True
    group = "geometry"
    built_on = "torch: per-sample kornia takes twice as long, torchvision tilts all images alike"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's tilt across and down, in standard deviations."""
        return {"tilt_B2": torch.randn(shape_BCHW[0], 2, generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, tilted."""
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        tilt_B2 = draw["tilt_B2"].to(images_BCHW.dtype) * variance_step(source, target)
        # x / sqrt(1 + x^2) < 1, of the sum of both: it is what a corner sees.
        tilt_B2 = tilt_B2 / (1 + (tilt_B2.abs().sum(dim=1, keepdim=True) / MAX_TILT).square()).sqrt()
        across_BW = 1 + tilt_B2[:, :1] * centres(width, like=images_BCHW)
        down_BH = tilt_B2[:, 1:] * centres(height, like=images_BCHW)
        divisor_B1HW = (across_BW[:, None, :] + down_BH[:, :, None])[:, None]
        return read_at(images_BCHW, pixel_places(images_BCHW) / divisor_B1HW)
