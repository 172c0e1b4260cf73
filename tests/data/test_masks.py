import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from autopv.data.decode import BrokenImageError, Stored, decode_image
from autopv.data.masks import MaskSizeError, decode_mask, fit_mask

SIZE = 16
ORIENTATION = 0x0112


def encode(image: Image.Image, format: str = "PNG", *, orientation: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(file, format, **({} if orientation == 1 else {"exif": exif}), **options)
    return file.getvalue()


def corner(width: int = 48, height: int = 32) -> np.ndarray:
    """A defect that no turn leaves where it was."""
    marks = np.zeros((height, width), dtype=bool)
    marks[2:12, 10:16] = True
    return marks


def decoded(content: bytes, *, size: tuple[int, int] = (48, 32), orientation: int = 1) -> np.ndarray:
    return decode_mask(content, stored=Stored(size=size, orientation=orientation), size_px=SIZE)


def palette() -> Image.Image:
    image = Image.fromarray(corner().astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 0, 0, 1])  # the darkest blue there is: its grey would round to 0
    return image


def on_transparent(colour: tuple[int, int, int]) -> Image.Image:
    """A defect in one colour on a transparent white background."""
    pixels = np.zeros((32, 48, 4), dtype=np.uint8)
    pixels[..., :3] = 255
    pixels[corner()] = [*colour, 255]
    return Image.fromarray(pixels)


GREY = Image.fromarray(corner().astype(np.uint8) * 255)


@pytest.mark.parametrize(
    "content",
    [
        encode(GREY),
        encode(Image.fromarray(corner().astype(np.uint8))),
        encode(Image.fromarray(corner())),
        encode(Image.fromarray(corner().astype(np.uint16) * 300)),
        encode(palette()),
        encode(
            Image.merge("RGB", (Image.new("L", GREY.size), Image.new("L", GREY.size), GREY.point(lambda v: v // 255)))
        ),
        encode(on_transparent((200, 0, 0))),
        encode(GREY, "BMP"),
        encode(GREY, "TIFF"),
        encode(Image.fromarray(corner().astype(np.float32)), "TIFF"),
        encode(GREY, "JPEG", quality=60),
        encode(GREY, "WEBP", quality=50),
    ],
    ids=[
        "0/255",
        "0/1",
        "1 bit",
        "16 bits",
        "palette",
        "colour",
        "transparency",
        "BMP",
        "TIFF",
        "float",
        "JPEG",
        "WebP",
    ],
)
def test_every_kind_of_mask_marks_the_same_defect(content: bytes) -> None:
    mask = decoded(content)
    assert mask.dtype == bool
    assert (mask == fit_mask(corner(), size_px=SIZE)).all()
    assert mask.sum() == 5 * 3


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_black_mask_is_no_defect(format: str) -> None:
    assert not decoded(encode(Image.new("L", (48, 32)), format)).any()


def test_mask_lies_over_its_image_in_every_orientation() -> None:
    for orientation in range(1, 9):
        image, stored = decode_image(encode(GREY, orientation=orientation), size_px=SIZE)
        assert stored == Stored(size=(48, 32), orientation=orientation)
        mask = decode_mask(encode(GREY), stored=stored, size_px=SIZE)
        assert ((image > 127) == mask).all()


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_mask_with_a_turn_of_its_own_is_taken_as_it_shows(format: str) -> None:
    turned = decoded(encode(GREY, format, orientation=6), size=(48, 32), orientation=6)
    assert (turned == decoded(encode(GREY), orientation=6)).all()
    assert (decoded(encode(GREY, format, orientation=6), size=(32, 48)) == turned).all()


def test_mask_drawn_on_the_upright_image_is_not_turned() -> None:
    upright = Image.fromarray(np.rot90(corner(), -1).astype(np.uint8))
    assert (decoded(encode(upright), orientation=6) == decoded(encode(GREY), orientation=6)).all()


def test_mask_of_another_size_names_both() -> None:
    with pytest.raises(MaskSizeError, match="the mask has 48 x 32 pixels, its image 48 x 33"):
        decoded(encode(GREY), size=(48, 33))
    with pytest.raises(MaskSizeError, match="the mask has 48 x 32 pixels, its image 32 x 48"):
        decoded(encode(GREY), size=(32, 48))


@pytest.mark.parametrize("content", [b"", b"no image", encode(GREY)[:-30]])
def test_broken_mask_is_told_apart(content: bytes) -> None:
    with pytest.raises(BrokenImageError):
        decoded(content)


def by_definition(marks: np.ndarray, size_px: int) -> np.ndarray:
    """The rule in integers: shares counted on a grid fine enough for every edge, neighbours in a loop."""
    fine = np.kron(marks, np.ones((2 * size_px, 2 * size_px), dtype=int))
    side = min(marks.shape)
    top, left = ((length - side) * size_px for length in marks.shape)
    crop = fine[top : top + 2 * size_px * side, left : left + 2 * size_px * side]
    share = crop.reshape(size_px, 2 * side, size_px, 2 * side).sum(axis=(1, 3))
    return np.array(
        [
            [
                share[i, j] > 0 and 2 * share[i, j] >= share[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].max()
                for j in range(size_px)
            ]
            for i in range(size_px)
        ]
    )


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 23),
    width=st.integers(1, 23),
    size_px=st.integers(3, 12),
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.02, 0.2, 0.7]),
)
def test_fit_follows_its_rule_exactly(height: int, width: int, size_px: int, seed: int, rate: float) -> None:
    marks = np.random.default_rng(seed).random((height, width)) < rate
    assert (fit_mask(marks, size_px=size_px) == by_definition(marks, size_px)).all()


def test_mask_of_the_right_size_stays_as_it_is_when_shares_are_whole() -> None:
    marks = np.random.default_rng(0).random((SIZE, SIZE)) < 0.3
    assert (fit_mask(marks, size_px=SIZE) == marks).all()


@pytest.mark.parametrize("size_px", [16, 32, 64])
def test_wide_defect_keeps_its_area(size_px: int) -> None:
    image = Image.new("1", (500, 400))
    ImageDraw.Draw(image).ellipse((150, 80, 350, 280), fill=1)
    marks = np.asarray(image)
    inside = marks[:, 50:450].mean()
    assert fit_mask(marks, size_px=size_px).mean() == pytest.approx(inside, rel=0.05)


@pytest.mark.parametrize("angle", range(0, 180, 15))
@pytest.mark.parametrize("thickness", [1, 5])
def test_thin_scratch_stays_one_unbroken_line(angle: int, thickness: int) -> None:
    from scipy.ndimage import label

    image = Image.new("1", (600, 600))
    reach = 250 * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    ImageDraw.Draw(image).line((*(303 - reach), *(303 + reach)), fill=1, width=thickness)
    mask = fit_mask(np.asarray(image), size_px=32)
    assert label(mask, structure=np.ones((3, 3)))[1] == 1
    # 500 of 600 pixels long; along a diagonal a pixel-wide line has fewer pixels, at worst two per step.
    assert 18 <= mask.sum() <= 2 * 28


@settings(max_examples=40, deadline=None)
@given(row=st.integers(0, 400), column=st.integers(0, 600), size_px=st.integers(8, 40))
def test_one_pixel_never_vanishes_from_the_crop(row: int, column: int, size_px: int) -> None:
    marks = np.zeros((401, 601), dtype=bool)
    marks[row, column] = True
    assert fit_mask(marks, size_px=size_px).any() == (100 <= column <= 500)
