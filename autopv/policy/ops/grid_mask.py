"""A regular grid of squares, removed."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, shorter_side, survival_step

PERIODS = (1 / 8, 1 / 2)
"""From the centre of one square to the next, as a fraction of the shorter side: bounds, drawn log-uniformly."""


@register
class GridMask(Op):
    """Squares at regular distances, filled with the image's mean colour.

    Of every cell the square has exactly the area asked for: its edges may cut pixels, which then are filled in part.
    So has the image, on average over where the grid lies, and always where cells fit in whole. With one draw, the
    squares grow about their centres. A step removes the share (target - source) / (1 - source) of the image, so that
    an average pixel survives with the ratio of survival probabilities; pixels are not independent: approximate.

    Source: Chen et al., "GridMask data augmentation", arXiv 2001.04086, equation 1. Theirs has periods of 0.43 of the
    side and more, may be turned, and fills with 0; `erase` has the few large holes, and the mean keeps the brightness.
    """

    name = "grid_mask"
    magnitude_name = "area"
    unit = "share of the image's area"
    low = 0.005
    high = 0.9
    deterministic = False
    exact = False
    monotone = True
    group = "missing"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's period as a fraction of the shorter side, and where in a cell the image begins, in [0, 1)."""
        uniform_3B = torch.rand(3, shape_BCHW[0], generator=generator)
        shortest, longest = PERIODS
        period_B = shortest * (longest / shortest) ** uniform_3B[0]
        entries = {"period_B": period_B, "row_B": uniform_3B[1], "column_B": uniform_3B[2]}
        return {name: entry_B.to(device, non_blocking=True) for name, entry_B in entries.items()}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with the squares filled."""
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        length = survival_step(source, target) ** 0.5
        period_px_B = draw["period_B"].to(images_BCHW.dtype) * shorter_side(images_BCHW)
        rows_BH = _covered(draw["row_B"], period_px_B, length=length, size_px=height)
        columns_BW = _covered(draw["column_B"], period_px_B, length=length, size_px=width)
        mask_B1HW = (rows_BH[:, :, None] * columns_BW[:, None, :])[:, None]
        return torch.lerp(images_BCHW, images_BCHW.mean(dim=(-2, -1), keepdim=True), mask_B1HW)


def _covered(phase_B: Tensor, period_px_B: Tensor, *, length: float, size_px: int) -> Tensor:
    """The covered share of every pixel of a line by intervals that fill the middle `length` of every period."""
    edge_N = torch.arange(size_px + 1, dtype=period_px_B.dtype, device=period_px_B.device)
    cell_BN = edge_N / period_px_B[:, None] + phase_B.to(period_px_B.dtype)[:, None]
    whole_BN = cell_BN.floor()
    covered_before_BN = whole_BN * length + (cell_BN - whole_BN - (1 - length) / 2).clamp(0, length)
    return (covered_before_BN.diff(dim=1) * period_px_B[:, None]).clamp(0, 1)
