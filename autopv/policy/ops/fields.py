"""Random fields, drawn on the images' device.

Drawing them on the CPU and copying would cost more than the rest of the rendering; so dense fields repeat per kind of
device, while small parameters, drawn on the CPU, are the same everywhere.
"""

import math

import torch
from torch import Tensor

from autopv.policy.ops.dct import cached, from_dct


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

    White noise, its cosine frequencies damped like those of a Gaussian blur of that standard deviation.
    """
    height, width = shape_BCHW[-2:]
    white_BCHW = normal_field(shape_BCHW, generator=generator, device=device)
    return from_dct(white_BCHW * _smooth_spectrum(height, width, length=length, device=device))


@cached
def _smooth_spectrum(height: int, width: int, *, length: float, device: torch.device) -> Tensor:
    """The standard deviation of every cosine coefficient, (height, width); their variances average to 1."""
    sigma_px = length * min(height, width)
    damping = [
        torch.exp(-0.5 * (sigma_px * math.pi * torch.arange(size, dtype=torch.float64) / size) ** 2)
        for size in (height, width)
    ]
    spectrum_HW = damping[0][:, None] * damping[1]
    return (spectrum_HW / spectrum_HW.square().mean().sqrt()).float().to(device, non_blocking=True)


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator itself on a CPU; elsewhere one on the device, seeded from it."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
