from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float, to_uint8
from autopv.errors import DataError


def test_uint8_survives_the_way_through_float() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert to_float(levels).dtype == torch.float32
    assert float(to_float(levels).max()) == 1.0


def test_to_uint8_clamps_and_rounds() -> None:
    assert to_uint8(torch.tensor([-1.0, 0.499 / 255, 0.501 / 255, 2.0])).tolist() == [0, 0, 1, 255]


def test_wrong_types_are_errors() -> None:
    with pytest.raises(DataError, match="must be uint8"):
        to_float(torch.zeros(1))
    with pytest.raises(DataError, match="must be floating-point"):
        to_uint8(torch.zeros(1, dtype=torch.uint8))


def test_grid_places_images_row_by_row() -> None:
    images = torch.linspace(0, 0.8, 5)[:, None, None, None].expand(5, 1, 4, 4)
    grid = image_grid(images, columns=3, scale=2, gap=1)
    assert grid.shape == (2 * 9 + 1, 3 * 9 + 1, 3)
    assert grid[0, 0].tolist() == [255] * 3
    assert grid[1, 1].tolist() == [0] * 3
    assert grid[8, 20].tolist() == [102] * 3
    assert grid[10, 10].tolist() == [204] * 3
    assert (grid[10:, 18:] == 255).all()
    assert (grid[:, 9] == 255).all()


def test_grid_keeps_colour() -> None:
    red = torch.zeros(1, 3, 2, 2)
    red[:, 0] = 1
    assert image_grid(red, columns=1, gap=0).tolist() == [[[255, 0, 0]] * 2] * 2


def test_row_labels_stand_left_of_the_rows() -> None:
    images = torch.zeros(4, 1, 20, 20)
    plain, labelled = image_grid(images, columns=2), image_grid(images, columns=2, row_labels=["winner", "control"])
    assert labelled.shape[0] == plain.shape[0]
    assert (labelled[:, -plain.shape[1] :] == plain).all()
    margin = labelled[:, : -plain.shape[1]]
    assert all((half < 128).any() for half in np.array_split(margin, 2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"columns": 0},
        {"columns": 1, "scale": 0},
        {"columns": 1, "gap": -1},
        {"columns": 1, "row_labels": ["one too few"]},
    ],
)
def test_bad_grids_are_errors(wrong: dict[str, object]) -> None:
    with pytest.raises(DataError):
        image_grid(torch.zeros(2, 1, 4, 4), **wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="N >= 1"):
        image_grid(torch.zeros(0, 1, 4, 4), columns=1)


def test_saved_png_holds_the_picture(tmp_path: Path) -> None:
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    save_png(tmp_path / "a.png", picture)
    assert (np.asarray(Image.open(tmp_path / "a.png")) == picture).all()
    with pytest.raises(DataError, match="uint8"):
        save_png(tmp_path / "b.png", picture.astype(np.float32))
