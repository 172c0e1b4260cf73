"""One image file or array -> one square uint8 image."""

import io
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

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
# What Pillow's decoders raise on damaged files, besides OSError.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


class BrokenImageError(Exception):
    """A file that holds no readable image; its message is the reason."""


def decode_image(content: bytes, *, size_px: int) -> NDArray[np.uint8]:
    """The image as (size_px, size_px) when grey, else (size_px, size_px, 3).

    Upright (EXIF), transparency laid over white, centre-cropped to a square, resized with antialiasing. Of several
    pages or frames the first. 16-bit images are scaled from their full range.
    Raises: BrokenImageError.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Metadata that Pillow finds odd is no reason to doubt the pixels; its limit on size is kept as an error.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                image.draft(None, (_DRAFT_FACTOR * size_px, _DRAFT_FACTOR * size_px))
                upright = ImageOps.exif_transpose(image)
                return _drop_equal_channels(_fit_square(_flatten(upright), size_px=size_px))
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


def _fit_square(image: "Image.Image", *, size_px: int) -> NDArray[np.uint8]:
    from PIL import Image

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
