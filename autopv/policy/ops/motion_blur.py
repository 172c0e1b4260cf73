"""Blur along a straight line, as by a camera that moved."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, shorter_side, variance_step
from autopv.policy.ops.dct import cached, from_dct, to_dct

# Below it sin(x) / x is 1 in both precisions; it only keeps 0 out of the division.
_TINY = 1e-12


@register
class MotionBlur(Op):
    """Each image averaged along a line through every pixel, in a direction of its own; beyond borders it is reflected.

    Exact in the frequency domain at every length, fractions of a pixel included, where rasterised lines are jagged
    and change by whole pixels: along its line a wave keeps sin(x) / x. A wave that runs obliquely is a product of
    cosines plus a product of sines, so both transforms are needed on the way back.
    Variances of displacements add, but a chain moves in a new direction at every step: approximate.
    """

    name = "motion_blur"
    magnitude_name = "length"
    unit = "length of the line, as a fraction of the shorter side"
    low = 0.01
    high = 0.6
    deterministic = False
    exact = False
    monotone = True
    group = "blur"
    built_on = "torch: kornia rasterises lines of odd whole pixels, slower from about 9 on; torchvision has none"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's direction: radians in [0, pi), counted from the horizontal towards the bottom."""
        return {"angle_B": (math.pi * torch.rand(shape_BCHW[0], generator=generator)).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, moved by the variance that is missing."""
        if target == source:
            return images_BCHW
        dtype, device = images_BCHW.dtype, images_BCHW.device
        height, width = images_BCHW.shape[-2:]
        half_px = 0.5 * variance_step(source, target) * shorter_side(images_BCHW)
        angle_B1 = draw["angle_B"].to(dtype)[:, None]
        # Phase of every frequency between the middle of the line and its end.
        rows_BH, columns_BW = (
            phase_B1 * torch.arange(size, dtype=dtype, device=device) * (math.pi * half_px / size)
            for phase_B1, size in ((angle_B1.sin(), height), (angle_B1.cos(), width))
        )
        sum_B1HW, difference_B1HW = (
            _sinc(rows_BH[:, None, :, None] + sign * columns_BW[:, None, None, :]) for sign in (1, -1)
        )
        cosines_BCHW = to_dct(images_BCHW)
        sines_BCHW = cosines_BCHW * (difference_B1HW - sum_B1HW).mul_(0.5)
        cosines_BCHW = cosines_BCHW.mul_((difference_B1HW + sum_B1HW).mul_(0.5))
        return from_dct(cosines_BCHW).add_(_from_sines(sines_BCHW))


def _sinc(phase_B1HW: Tensor) -> Tensor:
    """sin(x) / x, which is even."""
    size_B1HW = phase_B1HW.abs().clamp_(min=_TINY)
    return size_B1HW.sin().div_(size_B1HW)


def _from_sines(coefficients_BCHW: Tensor) -> Tensor:
    """Like from_dct, every cosine replaced by the sine of the same frequency and norm."""
    dtype, device = coefficients_BCHW.dtype, coefficients_BCHW.device
    rows_HH, columns_WW = (sine_matrix(size, dtype=dtype, device=device) for size in coefficients_BCHW.shape[-2:])
    return rows_HH.T @ (coefficients_BCHW @ columns_WW)


@cached
def sine_matrix(size_px: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The sines that go with the rows of dct_matrix (which are cosines at the same places); the first row is 0."""
    position_N = torch.arange(size_px, dtype=torch.float64) + 0.5
    frequency_N = torch.arange(size_px, dtype=torch.float64)
    basis_NN = torch.sin(math.pi / size_px * frequency_N[:, None] * position_N) * math.sqrt(2 / size_px)
    return basis_NN.to(dtype=dtype, device=device, non_blocking=True)
