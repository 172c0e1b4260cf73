"""Dead rows and columns of a sensor."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, KeptSharesMultiply, register, survival_step

MAX_LINES = 64
"""Per axis: above that many pixels a line is 1/64 of the side thick, so that a policy means the same at every size."""


@register
class DeadLines(KeptSharesMultiply):
    """Each row and each column independently dead, with the same probability; a dead line reads 0.

    At the share p a pixel survives with probability (1 - p)^2, so 1 - (1 - p)^2 of the image is lost (at 0.3 half).
    Lines die independently for good, and what they read depends on no frame: steps compose exactly. With one draw,
    dead lines stay dead.
    """

    name = "dead_lines"
    magnitude_name = "share"
    unit = "share of the rows that is dead, and of the columns"
    low = 0.002
    high = 0.7
    deterministic = False
    exact = True
    monotone = True
    group = "missing"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each line's share at which it dies, uniform in [0, 1)."""
        batch, _, height, width = shape_BCHW
        rows, columns = min(height, MAX_LINES), min(width, MAX_LINES)
        uniform_BN = torch.rand(batch, rows + columns, generator=generator).to(device, non_blocking=True)
        return {"row_BN": uniform_BN[:, :rows], "column_BN": uniform_BN[:, rows:]}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images without the lines that died."""
        if target == source:
            return images_BCHW
        share = survival_step(source, target)
        height, width = images_BCHW.shape[-2:]
        rows_BH = _per_pixel(draw["row_BN"], size_px=height) >= share
        columns_BW = _per_pixel(draw["column_BN"], size_px=width) >= share
        alive_B1HW = (rows_BH[:, :, None] & columns_BW[:, None, :])[:, None]
        return images_BCHW * alive_B1HW


def _per_pixel(lines_BN: Tensor, *, size_px: int) -> Tensor:
    """The value of every pixel's line, lines as equally thick as whole pixels allow, (B, size_px)."""
    num_lines = lines_BN.shape[1]
    if num_lines == size_px:
        return lines_BN
    return lines_BN[:, torch.arange(size_px, device=lines_BN.device) * num_lines // size_px]
