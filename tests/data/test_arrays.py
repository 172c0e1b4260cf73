from pathlib import Path

import numpy as np
import pytest
import torch

from autopv.data.images import load_images
from autopv.errors import DataError

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (5, 8, 8), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def load(path: Path, array: np.ndarray, *, size_px: int = 8) -> torch.Tensor:
    np.save(path / "images.npy", array)
    return load_images(path / "images.npy", size_px=size_px).images_NCHW


@pytest.mark.parametrize(
    "array",
    [GREY, GREY[..., None], GREY[:, None], GREY.astype(np.uint16) * 257, GREY / 255, (GREY / 255).astype(np.float32)],
    ids=["NHW", "NHW1", "N1HW", "uint16", "float64", "float32"],
)
def test_grey_arrays_of_every_layout_and_type_agree(tmp_path: Path, array: np.ndarray) -> None:
    assert torch.equal(load(tmp_path, array), torch.from_numpy(GREY)[:, None])


@pytest.mark.parametrize("array", [COLOUR, COLOUR.transpose(0, 3, 1, 2)], ids=["NHWC", "NCHW"])
def test_colour_arrays_of_either_layout_agree(tmp_path: Path, array: np.ndarray) -> None:
    assert torch.equal(load(tmp_path, array), torch.from_numpy(COLOUR.transpose(0, 3, 1, 2).copy()))


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    assert (load(tmp_path, np.zeros((2, 8, 8, 4), dtype=np.uint8)) == 255).all()


def test_arrays_are_resized_like_files(tmp_path: Path) -> None:
    assert load(tmp_path, np.full((2, 30, 20), 77, dtype=np.uint8), size_px=16).unique().tolist() == [77]


def test_npz_takes_images_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=GREY, labels=np.array([3, 1, 3, 1, 1]), more=np.zeros(2))
    image_set = load_images(tmp_path / "data.npz", size_px=8)
    assert image_set.class_names == ("1", "3")
    assert image_set.labels == (1, 0, 1, 0, 0)
    assert image_set.names[:2] == ("000000", "000001")


def test_npz_with_one_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", whatever=GREY)
    assert len(load_images(tmp_path / "data.npz", size_px=8)) == 5


MARKS = RANDOM.random((5, 8, 8)) < 0.3


@pytest.mark.parametrize(
    "masks",
    [MARKS, MARKS.astype(np.uint8), MARKS[:, None].astype(np.uint8) * 255, MARKS[..., None]],
    ids=["bool", "0/1", "N1HW 0/255", "NHW1"],
)
def test_npz_takes_masks_of_every_layout_and_type(tmp_path: Path, masks: np.ndarray) -> None:
    np.savez(tmp_path / "data.npz", images=COLOUR, masks=masks)
    image_set = load_images(tmp_path / "data.npz", size_px=8)
    assert image_set.masks_NHW is not None
    assert torch.equal(image_set.masks_NHW, torch.from_numpy(MARKS))
    assert image_set.num_defective == 5


def test_npz_masks_get_the_crop_and_size_of_their_images(tmp_path: Path) -> None:
    marks = np.zeros((2, 40, 61), dtype=bool)
    marks[0, 10:30, 15:40] = True
    np.savez(tmp_path / "data.npz", images=marks.astype(np.uint8) * 255, masks=marks)
    image_set = load_images(tmp_path / "data.npz", size_px=16)
    assert image_set.masks_NHW is not None
    assert torch.equal(image_set.images_NCHW[:, 0] > 127, image_set.masks_NHW)
    assert image_set.num_defective == 1


def test_npz_of_masks_alone_is_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", masks=GREY)
    assert not load_images(tmp_path / "data.npz", size_px=8).has_masks


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MARKS.astype(np.float32), "masks must be bool or uint8, but those of .* are float32"),
        (MARKS[:4], r"shape \(5, 8, 8\) or with one channel, but those of .* have \(4, 8, 8\)"),
        (MARKS[:, :7], r"have \(5, 7, 8\)"),
        (np.stack([MARKS] * 3, axis=1), r"have \(5, 3, 8, 8\)"),
    ],
)
def test_bad_npz_masks_are_errors(tmp_path: Path, masks: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "data.npz", images=GREY, masks=masks)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "data.npz", size_px=8)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GREY.astype(np.int64), "must be uint8, uint16, or float"),
        (GREY / 254, r"range from 0 to 1\.004"),
        (GREY - 0.5, "range from -0.5"),
        (np.full((2, 8, 8), np.nan), "range from nan"),
        (GREY[0], r"has \(8, 8\)"),
        (np.zeros((2, 8, 8, 5), dtype=np.uint8), r"has \(2, 8, 8, 5\)"),
        (np.zeros((0, 8, 8), dtype=np.uint8), "N >= 1"),
        (np.zeros((5, 3, 8, 4), dtype=np.uint8), "which axis is the channels"),
        (np.array([None, 1]), "pickled"),
    ],
)
def test_bad_arrays_are_errors(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, array)


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz"])
@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04rubbish"])
def test_damaged_files_are_errors(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"reading .* failed"):
        load_images(tmp_path / name, size_px=8)


def test_npz_without_images_lists_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=GREY, b=GREY)
    with pytest.raises(DataError, match="holds a, b"):
        load_images(tmp_path / "data.npz", size_px=8)


def test_labels_must_be_one_per_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", images=GREY, labels=np.zeros(4))
    with pytest.raises(DataError, match=r"shape \(5,\), but those .* have \(4,\)"):
        load_images(tmp_path / "data.npz", size_px=8)
