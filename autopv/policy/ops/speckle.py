"""Multiplicative white noise."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import REFERENCE_SIDE_PX, Draw, Op, register, shorter_side, variance_step
from autopv.policy.ops.fields import normal_field


@register
class Speckle(Op):
    """Every pixel and channel multiplied by 1 + sigma n, n standard normal: noise that is strong where light is.

    Like gaussian_noise, stated at 64 px and scaled by side / 64.
    A product of independent factors has mean 1, and its second moments multiply; a step from s to t therefore has the
    variance (1 + t^2) / (1 + s^2) - 1, and mean and variance of a frame are the same at every Markov order. A product
    of normal factors is not normal, though: approximate.
    """

    name = "speckle"
    magnitude_name = "sigma"
    unit = "standard deviation of the factor at 64 px; scales with side/64"
    low = 0.005
    high = 1.0
    deterministic = False
    exact = False
    monotone = True
    group = "signal"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """A standard normal field."""
        return {"field_BCHW": normal_field(shape_BCHW, generator=generator, device=device)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, multiplied by the factors that are missing."""
        if target == source:
            return images_BCHW
        scale = shorter_side(images_BCHW) / REFERENCE_SIDE_PX
        sigma = scale * variance_step(source, target) / math.hypot(1, scale * source)
        return images_BCHW.addcmul(images_BCHW, draw["field_BCHW"].to(images_BCHW.dtype), value=sigma)
