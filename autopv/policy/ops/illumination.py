"""Light that falls off from one side of the image to the other."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, VariancesAdd, register, variance_step


@register
class Illumination(VariancesAdd):
    """The images times exp(g_y y + g_x x), where y and x run from -1 to 1 between opposite borders.

    Light multiplies what a surface reflects: shadows stay black, unlike under an added gradient. g_y and g_x are
    zero-mean normal, so every direction occurs; over steps they add, and so do their variances: exact.
    """

    name = "illumination"
    magnitude_name = "falloff"
    unit = "standard deviation of the logarithm of the brightness from the centre to the middle of an edge"
    low = 0.005
    high = 1.0
    deterministic = False
    exact = True
    monotone = True
    group = "photometric"
    built_on = "torch: kornia's RandomLinearIllumination picks one of eight directions and clamps"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's change along rows and columns in standard deviations."""
        normal_2B = torch.randn(2, shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        return {"down_B": normal_2B[0], "right_B": normal_2B[1]}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images under their light."""
        if target == source:
            return images_BCHW
        falloff = variance_step(source, target)
        height, width = images_BCHW.shape[-2:]
        rows_BH = (falloff * draw["down_B"].to(images_BCHW.dtype)[:, None] * _positions(height, images_BCHW)).exp()
        columns_BW = (falloff * draw["right_B"].to(images_BCHW.dtype)[:, None] * _positions(width, images_BCHW)).exp()
        return images_BCHW * (rows_BH[:, :, None] * columns_BW[:, None, :])[:, None]


def _positions(size_px: int, like: Tensor) -> Tensor:
    """The pixels' centres along a line whose ends are -1 and 1."""
    return (torch.arange(size_px, dtype=like.dtype, device=like.device) + 0.5) * (2 / size_px) - 1
