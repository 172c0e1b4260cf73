import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from autopv.data.decode import BrokenImageError, decode_image

SIZE = 16


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def ramp(width: int = 64, height: int = 64) -> np.ndarray:
    """Grey that grows from left to right over the full range."""
    return np.tile(np.linspace(0, 255, width).round().astype(np.uint8), (height, 1))


def colour_ramp() -> np.ndarray:
    return np.stack([ramp(), ramp().T, 255 - ramp()], axis=-1)


def decoded(content: bytes) -> np.ndarray:
    return decode_image(content, size_px=SIZE)[0]


EXPECTED = np.asarray(Image.fromarray(ramp()).resize((SIZE, SIZE), Image.Resampling.LANCZOS)).astype(int)


@pytest.mark.parametrize(
    ("format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 1),
        ("JPEG", {"quality": 95}, 2),
    ],
)
def test_every_format_gives_the_same_grey_image(format: str, options: dict[str, Any], tolerance: int) -> None:
    pixels = decoded(encode(Image.fromarray(ramp()), format, **options))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIZE, SIZE)
    assert abs(pixels.astype(int) - EXPECTED).max() <= tolerance


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_every_format_gives_a_colour_image(format: str) -> None:
    pixels = decoded(encode(Image.fromarray(colour_ramp()), format, quality=95))
    assert pixels.shape == (SIZE, SIZE, 3)
    wanted = np.asarray(Image.fromarray(colour_ramp()).resize((SIZE, SIZE), Image.Resampling.LANCZOS)).astype(int)
    assert abs(pixels.astype(int) - wanted).mean() < 3


def test_grey_stored_in_three_channels_is_grey() -> None:
    pixels = decoded(encode(Image.fromarray(np.repeat(ramp()[..., None], 3, axis=2)), "PNG"))
    assert pixels.shape == (SIZE, SIZE)
    assert abs(pixels.astype(int) - EXPECTED).max() == 0


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_from_their_full_range(format: str) -> None:
    pixels = decoded(encode(Image.fromarray(ramp().astype(np.uint16) * 257), format))
    assert abs(pixels.astype(int) - EXPECTED).max() <= 1


def test_float_tiff_in_unit_range_is_scaled() -> None:
    pixels = decoded(encode(Image.fromarray(ramp().astype(np.float32) / 255), "TIFF"))
    assert abs(pixels.astype(int) - EXPECTED).max() <= 1


def test_float_tiff_beyond_unit_range_is_refused() -> None:
    with pytest.raises(BrokenImageError, match=r"must lie in \[0, 1\], but range from 0 to 255"):
        decoded(encode(Image.fromarray(ramp().astype(np.float32)), "TIFF"))


def test_palette_images_are_looked_up() -> None:
    red = Image.new("P", (32, 32), 1)
    red.putpalette([0, 0, 0, 200, 10, 20])
    assert (decoded(encode(red, "PNG")) == [200, 10, 20]).all()


def test_bilevel_images_are_black_and_white() -> None:
    pixels = decoded(encode(Image.new("1", (32, 32), 1), "PNG"))
    assert pixels.shape == (SIZE, SIZE)
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode: str) -> None:
    hidden = Image.new(mode, (32, 32), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    assert (decoded(encode(hidden, "PNG")) == 255).all()


def test_transparent_palette_entries_lie_over_white() -> None:
    hidden = Image.new("P", (32, 32), 0)
    hidden.putpalette([9, 9, 9])
    assert (decoded(encode(hidden, "PNG", transparency=0)) == 255).all()


def test_exif_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned = decoded(encode(Image.fromarray(ramp()), "JPEG", quality=95, exif=exif))
    assert abs(turned.astype(int) - np.rot90(EXPECTED, -1)).max() <= 2


def test_wide_images_are_cropped_at_their_centre() -> None:
    wide = np.zeros((32, 96), dtype=np.uint8)
    wide[:, 32:64] = 200
    pixels = decoded(encode(Image.fromarray(wide), "PNG"))
    assert pixels[:, 2:-2].min() >= 195


def test_fine_patterns_do_not_alias() -> None:
    stripes = np.zeros((160, 160), dtype=np.uint8)
    stripes[:, ::2] = 255
    pixels = decoded(encode(Image.fromarray(stripes), "PNG")).astype(int)
    # At the border half a stripe is missing from under the filter.
    assert abs(pixels[:, 1:-1] - 127).max() <= 1


def test_large_jpegs_decoded_at_a_fraction_look_the_same() -> None:
    large = Image.fromarray(ramp(512, 512))
    pixels = decoded(encode(large, "JPEG", quality=95)).astype(int)
    assert abs(pixels - np.asarray(large.resize((SIZE, SIZE), Image.Resampling.LANCZOS)).astype(int)).max() <= 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image at all",
        encode(Image.fromarray(ramp()), "PNG")[:-30],
        encode(Image.fromarray(ramp()), "JPEG")[:300],
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG"],
)
def test_broken_files_are_told_apart(content: bytes) -> None:
    with pytest.raises(BrokenImageError) as caught:
        decoded(content)
    assert "BytesIO" not in str(caught.value)


def test_decompression_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BrokenImageError, match="too large to be decoded safely"):
        decoded(encode(Image.fromarray(ramp()), "PNG"))
