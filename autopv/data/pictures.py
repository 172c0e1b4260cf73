"""Images as pictures for people: grids, and PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from autopv.data.tensors import to_uint8
from autopv.errors import DataError

_BACKGROUND = 255
_TEXT_COLOUR = (40, 40, 40)
_TEXT_SIZE_PX = 12
_TEXT_MARGIN_PX = 6


def image_grid(
    images_NCHW: Tensor,
    *,
    columns: int,
    scale: int = 1,
    gap: int = 2,
    row_labels: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of the images (float in [0, 1], 1 or 3 channels), row by row, on white.

    scale: pixels become squares of this side. gap: white pixels between images and around them.
    row_labels: a text left of each row.
    """
    if images_NCHW.ndim != 4 or images_NCHW.shape[1] not in (1, 3) or len(images_NCHW) == 0:
        raise DataError(
            f"a grid takes images (N, C, H, W) with N >= 1 and C = 1 or 3, but got {tuple(images_NCHW.shape)}"
        )
    if columns < 1 or scale < 1 or gap < 0:
        raise DataError(
            f"columns >= 1, scale >= 1 and gap >= 0 must hold, but got columns={columns}, scale={scale}, gap={gap}"
        )
    rows = -(-len(images_NCHW) // columns)
    if row_labels is not None and len(row_labels) != rows:
        raise DataError(f"row_labels must be one per row ({rows}), but got {len(row_labels)}")
    enlarged = F.interpolate(images_NCHW.detach().float().cpu(), scale_factor=scale, mode="nearest")
    tiles_NHWC = to_uint8(enlarged).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    height, width = tiles_NHWC.shape[1:3]
    shape = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    grid_HWC = np.full(shape, _BACKGROUND, dtype=np.uint8)
    for index, tile_HWC in enumerate(tiles_NHWC):
        top, left = index // columns * (height + gap) + gap, index % columns * (width + gap) + gap
        grid_HWC[top : top + height, left : left + width] = tile_HWC
    if row_labels is None:
        return grid_HWC
    return np.concatenate([_label_column(row_labels, row_height=height + gap, height=shape[0]), grid_HWC], axis=1)


def save_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """Writes the picture, (H, W) or (H, W, 3), replacing what was there."""
    from PIL import Image

    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise DataError(f"a picture is uint8 (H, W) or (H, W, 3), but got {picture.dtype} with shape {picture.shape}")
    Image.fromarray(picture).save(path, format="PNG", optimize=True)


def _label_column(labels: Sequence[str], *, row_height: int, height: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT_SIZE_PX)
    width = round(max(font.getlength(label) for label in labels)) + 2 * _TEXT_MARGIN_PX
    column = Image.new("RGB", (width, height), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(column)
    for row, label in enumerate(labels):
        draw.text((_TEXT_MARGIN_PX, (row + 0.5) * row_height), label, fill=_TEXT_COLOUR, font=font, anchor="lm")
    return np.asarray(column)
