"""Where to cut a field so that a stated share of each image lies below the cut."""

import torch
from torch import Tensor

_MAX_SAMPLES_PER_SIDE = 32
"""Sorting every pixel would cost more than all else; of 32 x 32 the share comes out to about half a percent."""


def sorted_samples(field_BHW: Tensor) -> Tensor:
    """Each image's values on a regular grid of its pixels, lowest first, (B, N)."""
    strides = [-(-size // _MAX_SAMPLES_PER_SIDE) for size in field_BHW.shape[1:]]
    grid_BHW = field_BHW[:, strides[0] // 2 :: strides[0], strides[1] // 2 :: strides[1]]
    return grid_BHW.flatten(start_dim=1).sort(dim=1).values


def level_below(samples_BN: Tensor, *, share: float) -> Tensor:
    """The value below which that share of each image's sorted samples lies, between two of them in proportion, (B,)."""
    last = samples_BN.shape[1] - 1
    place = min(max(share * (last + 1) - 0.5, 0), last)
    lower = int(place)
    return torch.lerp(samples_BN[:, lower], samples_BN[:, min(lower + 1, last)], place - lower)
