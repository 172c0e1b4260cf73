"""Regions filled with texture from elsewhere in the same image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops.inpaint import inpaint

RING = 0.05
"""Width of the surroundings that must fit at the new place, as a fraction of the shorter side."""
_WASTE_PENALTY = 0.5
"""What a donor region wholly unknown itself costs, in mean squared differences of surroundings that fit badly."""


def transplant(images_BCHW: Tensor, unknown_B1HW: Tensor) -> Tensor:
    """The images, their unknown regions (bool) filled seamlessly from the place whose surroundings fit best.

    Each image has one displacement, found among all by Fourier correlation; it is worse the more of the donor place is
    unknown itself (there the image is merely smooth) or lies across the border. What differs along the region's outline
    is spread harmonically over it: gradients are copied, so there is no seam.
    Source: Pérez et al. 2003, "Poisson Image Editing", equations 5 and 6 (seamless cloning).
    """
    smooth_BCHW = inpaint(images_BCHW, unknown_B1HW, num_cycles=0)
    donor_BCHW = _displaced(smooth_BCHW, *_best_displacement(smooth_BCHW, unknown_B1HW))
    healed_BCHW = donor_BCHW + inpaint(images_BCHW - donor_BCHW, unknown_B1HW)
    return torch.where(unknown_B1HW, healed_BCHW, images_BCHW)


def _best_displacement(images_BCHW: Tensor, unknown_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Each image's displacement down and right, in [0, height) and [0, width): cyclic, like the correlations."""
    height, width = images_BCHW.shape[-2:]
    unknown_BHW = unknown_B1HW[:, 0].to(images_BCHW.dtype)
    ring_px = max(1, round(RING * min(height, width)))
    grown_B1HW = F.max_pool2d(unknown_BHW[:, None], 2 * ring_px + 1, stride=1, padding=ring_px)
    ring_B1HW = grown_B1HW - unknown_BHW[:, None]
    centred_BCHW = images_BCHW - images_BCHW.mean(dim=(-2, -1), keepdim=True)
    # |ring (a - moved b)|^2, without what no displacement changes.
    cross_BHW = _correlation(ring_B1HW * centred_BCHW, centred_BCHW)
    power_BHW = _correlation(ring_B1HW, centred_BCHW.square().sum(dim=1, keepdim=True))
    num_ring_B11 = ring_B1HW.sum(dim=(-2, -1)).clamp(min=1)[:, :, None] * images_BCHW.shape[1]
    misfit_BHW = (power_BHW - 2 * cross_BHW) / num_ring_B11
    overlap_BHW = _correlation(unknown_BHW[:, None], unknown_BHW[:, None])
    torn_BHW = _torn(unknown_BHW.sum(dim=2))[:, :, None] + _torn(unknown_BHW.sum(dim=1))[:, None, :]
    num_unknown_B11 = unknown_BHW.sum(dim=(-2, -1)).clamp(min=1)[:, None, None]
    cost_BHW = misfit_BHW + _WASTE_PENALTY * (overlap_BHW + torn_BHW) / num_unknown_B11
    best_B = cost_BHW.flatten(start_dim=1).argmin(dim=1)
    return best_B // width, best_B % width


def _correlation(first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """For every cyclic displacement d, the sum over channels and pixels p of first[p] second[p + d], (B, H, W)."""
    product_BCHW = torch.fft.rfft2(first_BCHW).conj() * torch.fft.rfft2(second_BCHW)
    correlation_BHW: Tensor = torch.fft.irfft2(product_BCHW.sum(dim=1), s=first_BCHW.shape[-2:])
    return correlation_BHW


def _torn(profile_BN: Tensor) -> Tensor:
    """For every cyclic displacement of a line, how much of the profile comes from across an end: its smaller part."""
    size = profile_BN.shape[1]
    line_N = torch.arange(size, device=profile_BN.device)
    stays_NN = (line_N[:, None] + line_N < size).to(profile_BN.dtype)  # pixel n, displaced by d
    stays_BN = profile_BN @ stays_NN
    return torch.minimum(stays_BN, profile_BN.sum(dim=1, keepdim=True) - stays_BN)


def _displaced(images_BCHW: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """Every pixel taken from so far below and to its right, around the borders."""
    height, width = images_BCHW.shape[-2:]
    rows_BH = (torch.arange(height, device=down_B.device) + down_B[:, None]) % height
    columns_BW = (torch.arange(width, device=down_B.device) + right_B[:, None]) % width
    pixels_B1N = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).flatten(start_dim=1)[:, None]
    values_BCN = images_BCHW.flatten(start_dim=2)
    return values_BCN.gather(2, pixels_B1N.expand_as(values_BCN)).view_as(images_BCHW)
