"""Rotation about the centre."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, variance_step
from autopv.policy.ops.warp import centres, read_at


@register
class Rotate(Op):
    """Each image turned by a zero-mean normal angle; beyond the border the image is reflected.

    Variances of angles add, but every step resamples (bilinearly) and reflects anew: approximate.
    """

    name = "rotate"
    magnitude_name = "degrees"
    unit = "standard deviation of the angle, in degrees"
    low = 0.1
    high = 45.0
    deterministic = False
    exact = False
    monotone = True
    group = "geometry"
    built_on = "torch: per-sample kornia gives the same pixels in twice the time, torchvision turns all alike"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's angle in standard deviations."""
        return {"angle_B": torch.randn(shape_BCHW[0], generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, turned anticlockwise by their angles."""
        if target == source:
            return images_BCHW
        angle_B = draw["angle_B"].to(images_BCHW.dtype) * math.radians(variance_step(source, target))
        cos_B, sin_B = angle_B.cos(), angle_B.sin()
        height, width = images_BCHW.shape[-2:]
        # Turned in pixels, while places are counted in halves of each side.
        across_B2W = torch.stack((cos_B, sin_B * (width / height)), dim=1)[:, :, None] * centres(width, like=cos_B)
        down_B2H = torch.stack((-sin_B * (height / width), cos_B), dim=1)[:, :, None] * centres(height, like=cos_B)
        return read_at(images_BCHW, across_B2W[:, :, None, :] + down_B2H[:, :, :, None])
