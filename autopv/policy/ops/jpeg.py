"""JPEG compression."""

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, register
from autopv.policy.ops.dct import cached, cosine_basis

BLOCK_PX = 8

Table = tuple[tuple[int, ...], ...]

LUMA_TABLE: Table = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Steps of the cosine coefficients, in grey levels of 256. Source: ITU-T T.81, table K.1."""

CHROMA_TABLE: Table = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Source: ITU-T T.81, table K.2."""

LUMA_RGB = (0.299, 0.587, 0.114)
MID_GREY = 128 / 255
"""What the codec subtracts before it quantises."""

FULL_CHROMA_BELOW = 0.2
"""From quality 90 down (this coarseness up) chroma has half the resolution; above, encoders keep more of it."""


@register
class Jpeg(DeterministicOp):
    """The 8x8 cosine blocks of the codec, quantised; three channels as luma and chroma (4:2:0), others each as luma.

    The magnitude multiplies the standard tables. In the usual terms it is 2 - quality / 50 from quality 50 up, and
    50 / quality below. The steps are neither rounded to whole grey levels nor bounded by 255, and above quality 90
    chroma gains resolution gradually: so every magnitude matters, and 0 is the identity.
    Blocks are 8 pixels wide at any size of image, as in the codec: the same magnitude harms small images more.
    A step compresses the source frame by the target's tables, as re-saving a picture does: approximate.
    """

    name = "jpeg"
    magnitude_name = "coarseness"
    unit = "quantisation steps, as a multiple of the standard tables: quality 90 is 0.2, 50 is 1, 5 is 10"
    low = 0.02
    high = 16.0
    exact = False
    monotone = True
    group = "signal"
    built_on = "torch: kornia is slower, torchvision has one integer quality and leaves the device"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, compressed and decoded."""
        del draw
        if target == source:
            return images_BCHW
        if images_BCHW.shape[1] != 3:
            return _coded(images_BCHW - MID_GREY, LUMA_TABLE, coarseness=target).add_(MID_GREY)
        red_BHW, green_BHW, blue_BHW = images_BCHW.unbind(dim=1)
        of_red, of_green, of_blue = LUMA_RGB
        luma_BHW = (red_BHW * of_red).add_(green_BHW, alpha=of_green).add_(blue_BHW, alpha=of_blue)
        # Blue and red minus luma; the codec scales both to the range of a grey level.
        to_blue, to_red = 2 - 2 * of_blue, 2 - 2 * of_red
        chroma_B2HW = torch.stack(((blue_BHW - luma_BHW).div_(to_blue), (red_BHW - luma_BHW).div_(to_red)), dim=1)
        coded_B2HW = _coded(chroma_B2HW, CHROMA_TABLE, coarseness=target, shrink=2)
        if target < FULL_CHROMA_BELOW:
            detail_B2HW = chroma_B2HW - _halved(chroma_B2HW)
            coded_B2HW = coded_B2HW.add_(detail_B2HW, alpha=1 - target / FULL_CHROMA_BELOW)
        luma_BHW = _coded(luma_BHW - MID_GREY, LUMA_TABLE, coarseness=target).add_(MID_GREY)
        blue_BHW = torch.add(luma_BHW, coded_B2HW[:, 0], alpha=to_blue)
        red_BHW = torch.add(luma_BHW, coded_B2HW[:, 1], alpha=to_red)
        green_BHW = luma_BHW.sub_(red_BHW, alpha=of_red).sub_(blue_BHW, alpha=of_blue).div_(of_green)
        return torch.stack((red_BHW, green_BHW, blue_BHW), dim=1)


def _coded(planes: Tensor, table: Table, *, coarseness: float, shrink: int = 1) -> Tensor:
    """The planes (..., H, W), every cosine coefficient of their blocks rounded to a whole number of steps."""
    (rows, from_rows), (columns, from_columns) = (
        _transforms(size, planes, shrink=shrink) for size in planes.shape[-2:]
    )
    coefficients = rows @ (planes @ columns.T)
    height, width = coefficients.shape[-2:]
    steps_HW = _tiled(table, height, width, dtype=planes.dtype, device=planes.device) * coarseness
    return from_rows @ (coefficients.div_(steps_HW).round_().mul_(steps_HW) @ from_columns.T)


def _halved(planes: Tensor) -> Tensor:
    """The planes (..., H, W) at half the resolution and back."""
    (rows, from_rows), (columns, from_columns) = (_transforms(size, planes, shrink=2) for size in planes.shape[-2:])
    return from_rows @ (rows @ (planes @ columns.T) @ from_columns.T)


def _transforms(size_px: int, like: Tensor, *, shrink: int) -> tuple[Tensor, Tensor]:
    return (
        encoder(size_px, shrink=shrink, dtype=like.dtype, device=like.device),
        decoder(size_px, shrink=shrink, dtype=like.dtype, device=like.device),
    )


@cached
def encoder(size_px: int, *, shrink: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (coded, size_px) that takes a line to the coefficients of its blocks.

    The line is first averaged over `shrink` pixels; its last pixel is repeated until the blocks are full.
    """
    num_blocks = _num_blocks(size_px, shrink=shrink)
    pixel_N = torch.arange(num_blocks * BLOCK_PX * shrink).clamp(max=size_px - 1)
    padded = torch.eye(size_px, dtype=torch.float64)[pixel_N]
    sampled = padded.reshape(-1, shrink, size_px).mean(dim=1)
    return (_block_basis(num_blocks) @ sampled).to(dtype=dtype, device=device, non_blocking=True)


@cached
def decoder(size_px: int, *, shrink: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix (size_px, coded) that takes the coefficients back to a line.

    A line at half the resolution (shrink 2) is enlarged linearly between the centres of its samples.
    """
    num_blocks = _num_blocks(size_px, shrink=shrink)
    place_N = ((torch.arange(size_px, dtype=torch.float64) + 0.5) / shrink - 0.5).clamp(0, -(-size_px // shrink) - 1)
    sample = torch.arange(num_blocks * BLOCK_PX, dtype=torch.float64)
    enlarged = (1 - (place_N[:, None] - sample).abs()).clamp(min=0)
    return (enlarged @ _block_basis(num_blocks).T).to(dtype=dtype, device=device, non_blocking=True)


def _num_blocks(size_px: int, *, shrink: int) -> int:
    return -(-size_px // (BLOCK_PX * shrink))


def _block_basis(num_blocks: int) -> Tensor:
    return torch.kron(torch.eye(num_blocks, dtype=torch.float64), cosine_basis(BLOCK_PX))


@cached
def _tiled(table: Table, height: int, width: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The table's steps for images in [0, 1], repeated for every block."""
    steps_88 = torch.tensor(table, dtype=torch.float64) / 255
    steps_HW = steps_88.repeat(height // BLOCK_PX, width // BLOCK_PX)
    return steps_HW.to(dtype=dtype, device=device, non_blocking=True)
