"""Blur by a disc, as by a lens that is out of focus."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, register, shorter_side, variance_step
from autopv.policy.ops.dct import cached, from_dct, to_dct


@register
class Defocus(DeterministicOp):
    """Every point becomes a disc, the circle of confusion; beyond borders the image is reflected.

    Exact in the frequency domain, so that the edge of the disc may lie anywhere between pixels: a wave that fits x / pi
    times into the radius keeps 2 J1(x) / x. Some frequencies are lost and some inverted, as by a real lens: unlike a
    Gaussian blur it leaves false detail.
    Variances of displacements add, but two discs in a row are no disc: approximate.
    """

    name = "defocus"
    magnitude_name = "radius"
    unit = "radius of the disc, as a fraction of the shorter side"
    low = 0.004
    high = 0.3
    exact = False
    monotone = True
    group = "blur"
    built_on = "torch: neither kornia nor torchvision has it"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, blurred by the disc of the variance that is missing."""
        del draw
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        kept_HW = disc_spectrum(
            height,
            width,
            radius_px=variance_step(source, target) * shorter_side(images_BCHW),
            dtype=images_BCHW.dtype,
            device=images_BCHW.device,
        )
        return from_dct(to_dct(images_BCHW).mul_(kept_HW))


@cached
def disc_spectrum(height: int, width: int, *, radius_px: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The factor of every cosine frequency, (height, width); 1 for the mean."""
    rows_H, columns_W = (torch.arange(size, dtype=torch.float64) / size for size in (height, width))
    phase_HW = math.pi * radius_px * torch.hypot(rows_H[:, None], columns_W)
    kept_HW: Tensor = 2 * torch.special.bessel_j1(phase_HW) / phase_HW
    kept_HW[0, 0] = 1
    return kept_HW.to(dtype=dtype, device=device, non_blocking=True)
