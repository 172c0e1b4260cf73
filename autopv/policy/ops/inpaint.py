"""Images with unknown regions filled from what surrounds them."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_CYCLES = 2
"""Push-pull leaves errors of some percent of the range, each cycle about half of them: more would not be seen."""
_DAMPING = 0.8
"""Of a Jacobi sweep: damps the upper half of the frequencies of a 5-point Laplacian best."""
_COARSER_SOURCE = 3.0
"""At twice the spacing the same curvature is a four times larger difference; scattered known pixels make 4 diverge."""
_COARSEST_PX = 2


def inpaint(images_BCHW: Tensor, unknown_B1HW: Tensor, *, num_cycles: int = NUM_CYCLES) -> Tensor:
    """The images, nearly harmonic where unknown_B1HW (bool) is true and bit for bit themselves elsewhere.

    Every filled pixel is the mean of its four neighbours (at the border: of those there are), like a soap film spanned
    by the region's outline; an image without a known pixel is filled with its mean.
    Push-pull starts, which is smooth already; multigrid cycles on the unknown pixels do the rest.

    Source: Gortler et al. 1996, "The Lumigraph", section 3.4 (push-pull).
    """
    unknown = unknown_B1HW.to(images_BCHW.dtype)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    known = 1 - unknown
    filled_BCHW = _push_pull((images_BCHW - mean_BC11) * known, known) + mean_BC11
    for _ in range(num_cycles):
        filled_BCHW = _v_cycle(filled_BCHW, torch.zeros_like(filled_BCHW), unknown)
    return torch.where(unknown_B1HW, filled_BCHW, images_BCHW)


def _push_pull(sums_BCHW: Tensor, weights_B1HW: Tensor) -> Tensor:
    """Values whose weight is 1 kept, the others completed from half the resolution; sums are values times weights."""
    if max(sums_BCHW.shape[-2:]) == 1:
        return sums_BCHW / weights_B1HW.clamp(min=torch.finfo(sums_BCHW.dtype).tiny)
    coarse_B1HW = 4 * _halved(weights_B1HW)
    # A coarse pixel with a whole known pixel in it is known.
    scale_B1HW = 4 / coarse_B1HW.clamp(min=1)
    coarse_BCHW = _push_pull(_halved(sums_BCHW) * scale_B1HW, coarse_B1HW.clamp(max=1))
    return sums_BCHW + (1 - weights_B1HW) * _doubled(coarse_BCHW, like=sums_BCHW)


def _v_cycle(values_BCHW: Tensor, source_BCHW: Tensor, unknown_B1HW: Tensor) -> Tensor:
    """Unknown values brought nearer to exceeding the mean of their neighbours by `source_BCHW`."""
    values_BCHW = _relaxed(values_BCHW, source_BCHW, unknown_B1HW)
    if min(values_BCHW.shape[-2:]) > _COARSEST_PX:
        rest_BCHW = (_mean_of_neighbours(values_BCHW) + source_BCHW - values_BCHW) * unknown_B1HW
        # Unknown are the coarse pixels with nothing known in them: a larger region would overshoot.
        coarse_B1HW = (_halved(unknown_B1HW) == 1).to(unknown_B1HW.dtype)
        rest_BChw = _COARSER_SOURCE * _halved(rest_BCHW)
        coarse_BChw = _v_cycle(torch.zeros_like(rest_BChw), rest_BChw, coarse_B1HW)
        values_BCHW = values_BCHW + unknown_B1HW * _doubled(coarse_BChw, like=values_BCHW)
    for _ in range(2):
        values_BCHW = _relaxed(values_BCHW, source_BCHW, unknown_B1HW)
    return values_BCHW


def _relaxed(values_BCHW: Tensor, source_BCHW: Tensor, unknown_B1HW: Tensor) -> Tensor:
    """One damped Jacobi sweep."""
    rest_BCHW = _mean_of_neighbours(values_BCHW).add_(source_BCHW).sub_(values_BCHW)
    return torch.addcmul(values_BCHW, unknown_B1HW, rest_BCHW, value=_DAMPING)


def _mean_of_neighbours(values_BCHW: Tensor) -> Tensor:
    """The mean of the pixels above, below, left and right; beyond the border a pixel is its own neighbour."""
    padded_BCHW = F.pad(values_BCHW, (1, 1, 1, 1), mode="replicate")
    total_BCHW = padded_BCHW[..., :-2, 1:-1] + padded_BCHW[..., 2:, 1:-1]
    return total_BCHW.add_(padded_BCHW[..., 1:-1, :-2]).add_(padded_BCHW[..., 1:-1, 2:]).mul_(0.25)


def _halved(values_BCHW: Tensor) -> Tensor:
    """Means of 2 x 2 pixels; odd sides repeat their last line."""
    height, width = values_BCHW.shape[-2:]
    return F.avg_pool2d(F.pad(values_BCHW, (0, width % 2, 0, height % 2), mode="replicate"), 2)


def _doubled(values_BCHW: Tensor, *, like: Tensor) -> Tensor:
    """Twice the resolution, bilinear, cut to the size of `like`."""
    doubled_BCHW = F.interpolate(values_BCHW, scale_factor=2.0, mode="bilinear", align_corners=False)
    return doubled_BCHW[..., : like.shape[-2], : like.shape[-1]]
