"""One image file or array -> one square uint8 image."""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Raise when decoding, cropping or resizing changes: cached images are then made anew.
DECODER_VERSION = 1
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# JPEG can be decoded at 1/2, 1/4 or 1/8 of its size; staying this far above the size asked for leaves no trace.
_DRAFT_FACTOR = 3
# WebP brings grey images back with channels a level apart.
_GREY_LEVELS = 2
_EXIF_ORIENTATION, _UPRIGHT = 0x0112, 1
# Orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
# What Pillow's decoders raise on damaged files, besides OSError.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


_T = TypeVar("_T", bound=np.generic)


class BrokenImageError(Exception):
    """A file that holds no readable image; its message is the reason."""


@dataclass(frozen=True)
class Stored:
    """How a file holds its image: the (width, height) it is stored in, and how it is turned to be shown (EXIF)."""

    size: tuple[int, int]
    orientation: int

    @classmethod
    def of(cls, image: "Image.Image") -> "Stored":
        """What an opened file says, before it is decoded."""
        # PNG may keep it behind the pixels, so this can decode.
        told = image.getexif().get(_EXIF_ORIENTATION)
        orientation = told if isinstance(told, int) and told in range(1, 9) else _UPRIGHT
        # Pillow turns TIFF by itself, and tells the size it has then.
        shown = image.size[::-1] if image.format == "TIFF" and orientation in _SIDEWAYS else image.size
        return cls(size=(shown[0], shown[1]), orientation=orientation)

    @property
    def is_upright(self) -> bool:
        """Whether it is shown as it is stored."""
        return self.orientation == _UPRIGHT

    @property
    def upright_size(self) -> tuple[int, int]:
        """The (width, height) it is shown in."""
        return (self.size[1], self.size[0]) if self.orientation in _SIDEWAYS else self.size

    def turn(self, pixels_HW: NDArray[_T]) -> NDArray[_T]:
        """Pixels in the stored order, as they are shown."""
        if self.orientation in _SIDEWAYS:
            pixels_HW = pixels_HW.T
        flip_rows, flip_columns = self.orientation in (3, 4, 7, 8), self.orientation in (2, 3, 6, 7)
        return pixels_HW[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def decode_image(content: bytes, *, size_px: int, square_share: float = 1.0) -> tuple[NDArray[np.uint8], Stored]:
    """The image as (size_px, size_px) when grey, else (size_px, size_px, 3), and how the file held it.

    Upright (EXIF), transparency laid over white, centre-cropped to a square, resized with antialiasing. Of several
    pages or frames the first. 16-bit images are scaled from their full range.
    square_share: side of the square as a share of the image's shorter side.
    Raises: BrokenImageError.
    """
    from PIL import Image, ImageOps

    with reading(), Image.open(io.BytesIO(content)) as image:
        stored = Stored.of(image)
        least_px = math.ceil(_DRAFT_FACTOR * size_px / square_share)
        image.draft(None, (least_px, least_px))
        upright = ImageOps.exif_transpose(image)
        square = _fit_square(_flatten(upright), size_px=size_px, square_share=square_share)
        return _drop_equal_channels(square), stored


@contextmanager
def reading() -> Iterator[None]:
    """A context in which whatever Pillow raises on an unreadable file is a BrokenImageError."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Metadata that Pillow finds odd is no reason to doubt the pixels; its limit on size is kept as an error.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenImageError(f"too large to be decoded safely: {error}") from error
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        # Pillow names the in-memory file it was given, which tells a user nothing.
        raise BrokenImageError("not a readable image" if "BytesIO" in reason else reason) from error


def resize_array(pixels: NDArray[np.uint8], *, size_px: int) -> NDArray[np.uint8]:
    """An array (H, W), (H, W, 3) or (H, W, 4) as (size_px, size_px) or (size_px, size_px, 3)."""
    from PIL import Image

    return _fit_square(_flatten(Image.fromarray(pixels)), size_px=size_px)


def _flatten(image: "Image.Image") -> "Image.Image":
    """The image in mode L, RGB, or F in [0, 255] for deep greys, without transparency."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.float32) * (255 / 65535))
    if image.mode in ("I", "F"):
        return _flatten_deep(np.asarray(image))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "L" else image.convert("L" if image.mode == "1" else "RGB")


def _flatten_deep(pixels: NDArray[np.generic]) -> "Image.Image":
    from PIL import Image

    values = pixels.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    # Older writers keep 16-bit greys in 32-bit integers; floats have no range but [0, 1] by custom.
    limit = 1.0 if pixels.dtype.kind == "f" else 65535.0
    if not (low >= 0 and high <= limit):
        raise ValueError(f"{pixels.dtype} pixels must lie in [0, {limit:g}], but range from {low:g} to {high:g}")
    return Image.fromarray(values * (255 / limit))


def _fit_square(image: "Image.Image", *, size_px: int, square_share: float = 1.0) -> NDArray[np.uint8]:
    from PIL import Image

    if square_share != 1:
        # Cut out before it is resized, or the filter would reach beyond the edge.
        cut = round(square_share * min(image.size))
        corner = (image.width - cut) // 2, (image.height - cut) // 2
        image = image.crop((*corner, corner[0] + cut, corner[1] + cut))
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    if image.size != (size_px, size_px):
        image = image.resize(
            (size_px, size_px),
            Image.Resampling.LANCZOS,
            box=(left, top, left + side, top + side),
        )
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        # The filter overshoots at edges: 8-bit modes are clipped by Pillow itself, floats are not.
        pixels = pixels.clip(0, 255).round().astype(np.uint8)
    return pixels


def _drop_equal_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey image kept in three channels (many cameras do) as one."""
    if pixels.ndim == 3 and np.ptp(pixels, axis=-1).max() <= _GREY_LEVELS:
        return np.ascontiguousarray(pixels[..., 1])  # green, the middle of what a luma would mix
    return pixels
