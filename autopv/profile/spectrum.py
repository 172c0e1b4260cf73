"""Which spatial frequencies of the images survive in a frame.

For each coefficient of the cosine transform (autopv.policy.ops.dct), the squared correlation over the images between
the image's coefficient and the frame's is the share of the former's variance that a line through the latter predicts:
the squared coherence. A band's share is the mean over its coefficients, weighted by the images' variance in each.
A gain that is the same for all images loses nothing by itself. What loses is noise beside it, and the frames are 8-bit
pictures: a coefficient that a blur makes smaller than their rounding is lost.

What moves between frequencies (rotations, shifts, warps) counts as lost, though no eye would miss it.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from autopv.data.tensors import to_float
from autopv.policy.ops.dct import to_dct

LOWEST_CYCLES = 0.5
"""The first cosine after the mean: half a cycle per side. The mean itself is in no band."""
_FIRST_OCTAVES = 2
_CHUNK = 32


def band_edges(height: int, width: int) -> tuple[float, ...]:
    """Edges of the bands in cycles per shorter side: 0.5, 2, then octaves; the last reaches into the corners.

    >>> band_edges(32, 32)
    (0.5, 2.0, 4.0, 8.0, 22.627416997969522)
    """
    nyquist = min(height, width) / 2
    edges = [LOWEST_CYCLES, LOWEST_CYCLES * 2**_FIRST_OCTAVES]
    while edges[-1] * 2 < nyquist:
        edges.append(edges[-1] * 2)
    return (*edges, nyquist * math.sqrt(2))


def band_shares(images_NCHW: Tensor, frames_NTCHW: Tensor, *, edges: tuple[float, ...]) -> Tensor:
    """Share in [0, 1] of the images' variance in each band that each frame predicts, (T, bands); both uint8.

    The squared correlations are adjusted for the number of images, so that independent noise scores 0 on average.
    A band in which the images do not vary has nothing to lose: 1.
    """
    num_images, num_frames = frames_NTCHW.shape[:2]
    x_CHW, xx_CHW = (torch.zeros(images_NCHW.shape[1:], dtype=torch.float64) for _ in range(2))
    y_TCHW, yy_TCHW, xy_TCHW = (torch.zeros(frames_NTCHW.shape[1:], dtype=torch.float64) for _ in range(3))
    for chunk in torch.split(torch.arange(num_images), _CHUNK):
        images = to_dct(to_float(images_NCHW[chunk]).double())
        x_CHW += images.sum(0)
        xx_CHW += images.square().sum(0)
        for t in range(num_frames):
            frames = to_dct(to_float(frames_NTCHW[chunk, t]).double())
            y_TCHW[t] += frames.sum(0)
            yy_TCHW[t] += frames.square().sum(0)
            xy_TCHW[t] += (images * frames).sum(0)
    variance_CHW = (xx_CHW - x_CHW.square() / num_images).clamp(min=0)
    frame_variance_TCHW = (yy_TCHW - y_TCHW.square() / num_images).clamp(min=0)
    covariance_TCHW = xy_TCHW - x_CHW * y_TCHW / num_images
    # Far below the rounding of 8-bit pictures, far above that of float64: what varies less does not vary.
    floor = 1e-12 * num_images
    varies_TCHW = (frame_variance_TCHW > floor) & (variance_CHW > floor)
    product_TCHW = (frame_variance_TCHW * variance_CHW).where(varies_TCHW, torch.ones((), dtype=torch.float64))
    squared_TCHW = (covariance_TCHW.square() / product_TCHW).where(varies_TCHW, torch.zeros((), dtype=torch.float64))
    adjusted_TCHW = 1 - (1 - squared_TCHW) * (num_images - 1) / (num_images - 2)
    predicted_TCHW = (adjusted_TCHW * variance_CHW).where(varies_TCHW, torch.zeros((), dtype=torch.float64))
    cycles_HW = _cycles(*images_NCHW.shape[-2:])
    shares = []
    for low, high in pairwise(edges):
        band_HW = ((cycles_HW >= low) & (cycles_HW < high)).double()
        total = (variance_CHW * band_HW).sum()
        kept_T = (predicted_TCHW * band_HW).sum((1, 2, 3)) / total.clamp(min=floor)
        shares.append(kept_T if total > floor else torch.ones_like(kept_T))
    return torch.stack(shares, dim=1).clamp(0, 1)


def _cycles(height: int, width: int) -> Tensor:
    """The radial frequency of every cosine coefficient, in cycles per shorter side."""
    rows_H1 = torch.arange(height, dtype=torch.float64)[:, None] / (2 * height)
    columns_W = torch.arange(width, dtype=torch.float64) / (2 * width)
    return (rows_H1.square() + columns_W.square()).sqrt() * min(height, width)
