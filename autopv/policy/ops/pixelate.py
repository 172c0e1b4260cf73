"""Pixelation: every block of pixels becomes its mean."""

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, register, shorter_side
from autopv.policy.ops.dct import cached


@register
class Pixelate(DeterministicOp):
    """The images seen through coarser pixels, at the same size.

    A side is cut into the whole number of cells that comes nearest to the block asked for, as evenly as pixels allow.
    A step applies the target's blocks to the source frame. Where the blocks of both nest, that is the target's
    pixelation of the image itself; elsewhere a chain blurs a little more than a star: approximate.
    """

    name = "pixelate"
    magnitude_name = "block"
    unit = "side of a block, as a fraction of the shorter side"
    low = 0.005
    high = 0.5
    exact = False
    monotone = True
    group = "blur"
    built_on = "torch: neither kornia nor torchvision has it"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, averaged over the target's blocks."""
        del draw
        if target == source:
            return images_BCHW
        block_px = target * shorter_side(images_BCHW)
        height, width = images_BCHW.shape[-2:]
        rows_HH, columns_WW = (
            averaging_matrix(
                size,
                num_cells=min(size, max(1, round(size / block_px))),
                dtype=images_BCHW.dtype,
                device=images_BCHW.device,
            )
            for size in (height, width)
        )
        return rows_HH @ (images_BCHW @ columns_WW)  # the matrices are symmetric


@cached
def averaging_matrix(size_px: int, *, num_cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The symmetric (size_px, size_px) matrix that replaces every pixel of a line by the mean of its cell."""
    cell_N = torch.arange(size_px) * num_cells // size_px
    same_NN = (cell_N[:, None] == cell_N).to(torch.float64)
    return (same_NN / same_NN.sum(dim=1, keepdim=True)).to(dtype=dtype, device=device, non_blocking=True)
