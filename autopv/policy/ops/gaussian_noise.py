"""Additive white Gaussian noise."""

import torch
from torch import Tensor

from autopv.policy.ops.base import REFERENCE_SIDE_PX, Draw, VariancesAdd, register, shorter_side, variance_step
from autopv.policy.ops.fields import normal_field


@register
class GaussianNoise(VariancesAdd):
    """Independent normal noise on every pixel and channel; variances add, so steps compose exactly.

    White noise of standard deviation s at side N looks like s / f after shrinking by f. Stated at 64 px and scaled by
    side / 64, one magnitude therefore hides the same structures at every size.
    """

    name = "gaussian_noise"
    magnitude_name = "sigma"
    unit = "standard deviation per pixel at 64 px, images in [0, 1]; scales with side/64"
    low = 0.002
    high = 1.0
    deterministic = False
    exact = True
    monotone = True
    group = "signal"
    built_on = "torch: kornia has one standard deviation for the whole batch"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """A standard normal field."""
        return {"field_BCHW": normal_field(shape_BCHW, generator=generator, device=device)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images plus the field, scaled to the variance that is missing."""
        if target == source:
            return images_BCHW
        sigma = variance_step(source, target) * shorter_side(images_BCHW) / REFERENCE_SIDE_PX
        return images_BCHW.add(draw["field_BCHW"].to(images_BCHW.dtype), alpha=sigma)
