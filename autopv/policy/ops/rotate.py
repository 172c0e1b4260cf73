"""Rotation about the centre."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, variance_step


@register
class Rotate(Op):
    """Each image turned by a zero-mean normal angle; beyond the border the image is reflected.

    Variances of angles add, but every step resamples (bilinearly) and reflects anew: approximate.
    Plain torch: per-sample kornia gives the same pixels at the same speed, for a second of import.
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
    built_on = "torch: per-sample kornia gives the same pixels at the same speed, for a second of import"

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
        zero_B = torch.zeros_like(cos_B)
        # Turned in pixels, while grid_sample counts in halves of each side.
        top_B3 = torch.stack((cos_B, -sin_B * (height / width), zero_B), dim=1)
        bottom_B3 = torch.stack((sin_B * (width / height), cos_B, zero_B), dim=1)
        theta_B23 = torch.stack((top_B3, bottom_B3), dim=1)
        grid_BHW2 = F.affine_grid(theta_B23, list(images_BCHW.shape), align_corners=False)
        return F.grid_sample(images_BCHW, grid_BHW2, mode="bilinear", padding_mode="reflection", align_corners=False)
