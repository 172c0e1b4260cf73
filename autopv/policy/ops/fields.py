"""Random fields, drawn on the images' device.

Drawing them on the CPU and copying would cost more than the rest of the rendering; so dense fields repeat per kind of
device, while small parameters, drawn on the CPU, are the same everywhere.
"""

import math

import torch
from torch import Tensor

from autopv.policy.ops.dct import cached, cosine_basis

# Beyond, frequencies are damped below 1e-6: not seen, while denormal products would take ten times as long.
_MAX_DAMPED_SIGMAS = 5.3


def normal_field(shape: tuple[int, ...], *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Independent standard normal values."""
    return torch.randn(shape, generator=_on(device, generator), device=device)


def uniform_field(shape: tuple[int, ...], *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Independent uniform values in [0, 1)."""
    return torch.rand(shape, generator=_on(device, generator), device=device)


def smooth_field(
    shape_BCHW: tuple[int, int, int, int], *, length: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Normal values of mean 0 and variance 1 (over draws and pixels) that vary over `length` of the shorter side.

    White noise, its cosine frequencies damped like those of a Gaussian blur of that standard deviation. Only the
    frequencies that are left are drawn: one draw is the same field at every size that resolves it.
    """
    height, width = shape_BCHW[-2:]
    sigma_px = length * min(height, width)
    rows_FH = _smooth_basis(height, sigma_px=sigma_px, device=device)
    columns_FW = _smooth_basis(width, sigma_px=sigma_px, device=device)
    shape_BCFF = (*shape_BCHW[:2], len(rows_FH), len(columns_FW))
    white_BCFF = normal_field(shape_BCFF, generator=generator, device=device)
    return rows_FH.T @ (white_BCFF @ columns_FW)


@cached
def _smooth_basis(size_px: int, *, sigma_px: float, device: torch.device) -> Tensor:
    """The damped cosines (frequencies, size_px) of a line; the variances of their sum average to 1 over the pixels."""
    frequency_F = torch.arange(size_px, dtype=torch.float64)
    damping_F = torch.exp(-0.5 * (sigma_px * math.pi * frequency_F / size_px) ** 2)
    num_left = max(1, math.ceil(_MAX_DAMPED_SIGMAS * size_px / (math.pi * sigma_px)))
    basis_FN = (damping_F[:, None] * cosine_basis(size_px))[:num_left]
    variance_scale = math.sqrt(size_px) / basis_FN.square().sum().sqrt()
    return (basis_FN * variance_scale).float().to(device, non_blocking=True)


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself on a CPU; elsewhere one on the device, seeded from it."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
