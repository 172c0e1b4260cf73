"""One defect mask, from a file or an array -> one square bool mask that lies over its image."""

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autopv.data.decode import Stored, reading

if TYPE_CHECKING:
    from PIL import Image

# Raise when decoding, cropping or resizing of masks changes: cached masks are then made anew.
MASK_VERSION = 1
# Their compression blurs a mask's edge, so that not every level above zero was meant.
_LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")
# Sums of up to 1e5 pixels are exact to far below this; without it equal shares would be told apart by their rounding.
_TOLERANCE = 1e-9


class MaskSizeError(Exception):
    """A mask of another size than its image."""

    def __init__(self, *, mask_size: tuple[int, int], image_size: tuple[int, int]) -> None:
        self.mask_size, self.image_size = (f"{width} x {height}" for width, height in (mask_size, image_size))
        super().__init__(f"the mask has {self.mask_size} pixels, its image {self.image_size}")


def decode_mask(content: bytes, *, stored: Stored, size_px: int) -> NDArray[np.bool_]:
    """True where the mask marks a defect, (size_px, size_px), cropped and scaled as its image is.

    Any level but zero marks a defect (so 0/255 and label numbers both work): in colour and palette files any colour
    but black, where it is not wholly transparent. Of JPEG and WebP, what is above half of the mask's highest level.
    A mask of the image's stored size is turned with the image; one with a turn of its own, or of the upright size, is
    taken as it shows.
    Raises: BrokenImageError; MaskSizeError.
    """
    from PIL import Image, ImageOps

    with reading(), Image.open(io.BytesIO(content)) as image:
        own = Stored.of(image)
        marks = _marks(ImageOps.exif_transpose(image), lossy=image.format in _LOSSY_FORMATS)
    if own.is_upright and own.size == stored.size:
        marks = stored.turn(marks)
    elif own.upright_size != stored.upright_size:
        raise MaskSizeError(mask_size=own.upright_size, image_size=stored.upright_size)
    return fit_mask(marks, size_px=size_px)


def fit_mask(marks_HW: NDArray[np.bool_], *, size_px: int) -> NDArray[np.bool_]:
    """The centre square of a mask at (size_px, size_px): the same crop and scale that images get.

    A pixel is marked when the share of it that the defect covers is at least half of the largest share among it and
    its eight neighbours. Inside and along the edge of a wide defect that is the usual half, so its area is kept; a
    defect thinner than a pixel stays an unbroken line about one pixel wide; and no defect vanishes.
    """
    height, width = marks_HW.shape
    side = min(height, width)
    if not marks_HW.any():
        return np.zeros((size_px, size_px), dtype=bool)
    along_HS = _shares(marks_HW, start=(width - side) / 2, side=side, size_px=size_px)
    share_HW = _shares(along_HS.T, start=(height - side) / 2, side=side, size_px=size_px).T
    padded = np.pad(share_HW, 1)
    over_rows = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])
    largest = np.maximum(np.maximum(over_rows[:, :-2], over_rows[:, 1:-1]), over_rows[:, 2:])
    return (share_HW > _TOLERANCE) & (2 * share_HW >= largest - _TOLERANCE)


def _shares(
    values: NDArray[np.bool_] | NDArray[np.float64], *, start: float, side: int, size_px: int
) -> NDArray[np.float64]:
    """Exact means of each row's `size_px` equal stretches from `start` on; they may cut through pixels."""
    edges = start + np.arange(size_px + 1) * (side / size_px)
    # The last edge may be the end of the row, where no pixel begins.
    whole = np.minimum(edges.astype(np.int64), values.shape[1] - 1)
    # NumPy sums along contiguous rows, and in integers, several times as fast.
    sums = np.cumsum(np.ascontiguousarray(values), axis=1, dtype=np.int32 if values.dtype == bool else np.float64)
    before = np.where(whole > 0, sums[:, whole - 1], 0)
    integral = before + (edges - whole) * values[:, whole].astype(np.float64)
    shares: NDArray[np.float64] = np.diff(integral, axis=1) * (size_px / side)
    return shares


def _marks(image: "Image.Image", *, lossy: bool) -> NDArray[np.bool_]:
    visible: NDArray[np.bool_] | bool = True
    if image.has_transparency_data:
        image = image.convert("RGBA")
        visible = np.asarray(image)[..., 3] > 0
        image = image.convert("RGB")
    elif image.mode not in ("1", "L", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    levels = np.asarray(image)
    if levels.ndim == 3:
        levels = levels.max(axis=2)
    marks = levels > levels.max() / 2 if lossy else levels != 0
    return np.asarray(marks & visible)
