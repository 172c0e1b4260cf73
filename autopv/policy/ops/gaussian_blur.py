"""Gaussian blur with reflecting borders, exact in the frequency domain."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, VariancesAdd, register, shorter_side, variance_step
from autopv.policy.ops.dct import cached, cosine_basis


@register
class GaussianBlur(DeterministicOp, VariancesAdd):
    """Heat diffusion: every cosine frequency f is damped by exp(-(sigma pi f)^2 / 2), so steps compose exactly.

    A sampled, truncated kernel is mis-calibrated below about 0.7 px and composes only to about 1e-2; damping the
    frequencies of the DCT-II (whose even extension is the reflecting border) has neither flaw.
    Both axes are one matrix product each; the matrix holds DCT, damping and inverse DCT in one.
    """

    name = "gaussian_blur"
    magnitude_name = "sigma"
    unit = "standard deviation of the kernel, as a fraction of the shorter side"
    low = 0.002
    high = 0.5
    exact = True
    monotone = True
    group = "blur"
    built_on = "torch: sampled kernels of kornia and torchvision do not compose and are slower"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, blurred by the variance that is missing."""
        del draw
        if target == source:
            return images_BCHW
        sigma_px = variance_step(source, target) * shorter_side(images_BCHW)
        height, width = images_BCHW.shape[-2:]
        rows_HH = blur_matrix(height, sigma_px=sigma_px, dtype=images_BCHW.dtype, device=images_BCHW.device)
        columns_WW = blur_matrix(width, sigma_px=sigma_px, dtype=images_BCHW.dtype, device=images_BCHW.device)
        return rows_HH @ (images_BCHW @ columns_WW)  # the matrices are symmetric


@cached
def blur_matrix(size_px: int, *, sigma_px: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The symmetric (size_px, size_px) matrix that blurs a line of pixels; made in float64."""
    basis_NN = cosine_basis(size_px)
    frequency_N = torch.arange(size_px, dtype=torch.float64)
    damping_N = torch.exp(-0.5 * (sigma_px * math.pi * frequency_N / size_px) ** 2)
    return (basis_NN.T * damping_N @ basis_NN).to(dtype=dtype, device=device, non_blocking=True)
