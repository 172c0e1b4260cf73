"""Brighter or darker middle tones, black and white kept."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, VariancesAdd, register, variance_step


@register
class Gamma(VariancesAdd):
    """Every value x in [0, 1] becomes x ** exp(g), with one zero-mean normal g per image.

    Exponents multiply, so the g of two steps add, and so do their variances. Nothing is clamped between frames: a value
    outside [0, 1] (another op may have put it there) stays as it is, which is continuous, since 0 and 1 are fixed, and
    never overflows. So steps compose exactly on every value, up to what rounding leaves of tones next to 0 and 1.
    """

    name = "gamma"
    magnitude_name = "log_gamma"
    unit = "standard deviation of the natural logarithm of the exponent"
    low = 0.01
    high = 1.0
    deterministic = False
    exact = True
    monotone = True
    group = "photometric"
    built_on = "torch: two lines; torchvision has one exponent per batch, kornia clamps"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """The logarithm of each image's exponent in standard deviations."""
        return {"log_gamma_B": torch.randn(shape_BCHW[0], generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, their values between 0 and 1 raised to their exponents."""
        if target == source:
            return images_BCHW
        log_gamma_B = draw["log_gamma_B"].to(images_BCHW.dtype) * variance_step(source, target)
        tones_BCHW = images_BCHW.clamp(0, 1)
        # x ** e as exp(e log x): 0 stays 0, in less than half of pow's time.
        powers_BCHW = (tones_BCHW.log() * log_gamma_B.exp()[:, None, None, None]).exp()
        return powers_BCHW + (images_BCHW - tones_BCHW)
