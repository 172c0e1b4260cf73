from pathlib import Path

import pytest

from autopv.data.layout import find_layout
from autopv.errors import DataError

FOLDER = Path("here")
BOTTLE = ["train/good/000.png", "test/good/000.png", "test/crack/000.png", "ground_truth/crack/000_mask.png"]


def masks(names: list[str]) -> dict[str, str | None]:
    layout = find_layout(names, folder=FOLDER)
    assert layout.masks is not None
    return dict(zip(layout.images, layout.masks, strict=True))


def classes(names: list[str]) -> dict[str, str]:
    layout = find_layout(names, folder=FOLDER)
    return dict(zip(layout.images, layout.classes, strict=True))


def test_mvtec_category_is_good_or_its_defects() -> None:
    assert classes(BOTTLE) == {"train/good/000.png": "good", "test/good/000.png": "good", "test/crack/000.png": "crack"}
    assert masks(BOTTLE) == {
        "train/good/000.png": None,
        "test/good/000.png": None,
        "test/crack/000.png": "ground_truth/crack/000_mask.png",
    }


def test_several_mvtec_categories_are_told_apart() -> None:
    names = [f"{category}/{name}" for category in ("bottle", "nut") for name in BOTTLE]
    assert set(classes(names).values()) == {"bottle/good", "bottle/crack", "nut/good", "nut/crack"}
    assert masks(names)["nut/test/crack/000.png"] == "nut/ground_truth/crack/000_mask.png"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("test/bad/a.JPG", "ground_truth/bad/a.png"),
        ("test/bad/a.bmp", "ground_truth/bad/a_mask.bmp"),
        ("test/bad/a_mask.png", "ground_truth/bad/a_mask.png"),
        ("test/good/a.png", "ground_truth/good/a_mask.png"),
    ],
)
def test_mvtec_masks_may_be_named_otherwise(image: str, mask: str) -> None:
    assert masks(["train/good/a.png", "validation/good/a.png", "test/ok/b.png", image, mask])[image] == mask


def test_missing_mask_names_the_image_and_the_path_expected() -> None:
    with pytest.raises(
        DataError,
        match=r"'bottle/test/crack/001\.png' below 'here' has none; expected 'bottle/ground_truth/crack/001_mask\.png'",
    ):
        find_layout([f"bottle/{name}" for name in [*BOTTLE, "test/crack/001.png"]], folder=FOLDER)


def test_category_without_any_mask_is_not_passed_over() -> None:
    with pytest.raises(DataError, match=r"'nut/test/cut/000\.png' below 'here' has none"):
        find_layout([*(f"bottle/{name}" for name in BOTTLE), "nut/test/cut/000.png"], folder=FOLDER)


@pytest.mark.parametrize("stray", ["overview.png", "notes/crack/x.png", "ground_truth/crack/000/000.png"])
def test_file_outside_the_mvtec_folders_is_an_error(stray: str) -> None:
    with pytest.raises(DataError, match=f"'{stray}' below 'here' does not; move it"):
        find_layout([*BOTTLE, stray], folder=FOLDER)


def test_training_images_take_no_mask_of_a_test_image() -> None:
    with pytest.raises(DataError, match=r"'train/crack/000\.png' below 'here' has none"):
        find_layout([*BOTTLE, "train/crack/000.png"], folder=FOLDER)


SIBLINGS = ["images/a.png", "images/cut/b.jpg", "images/cut/c.png", "masks/a.png", "masks/cut/b_mask.png"]


def test_sibling_folders_are_paired_by_stem() -> None:
    assert masks(SIBLINGS) == {
        "images/a.png": "masks/a.png",
        "images/cut/b.jpg": "masks/cut/b_mask.png",
        "images/cut/c.png": None,
    }
    assert classes(SIBLINGS) == {"images/a.png": ".", "images/cut/b.jpg": "cut", "images/cut/c.png": "cut"}


def test_sibling_folders_may_lie_deeper_and_be_capitalised() -> None:
    names = ["candle/Data/Images/Anomaly/0.JPG", "candle/Data/Images/Normal/0.JPG", "candle/Data/Masks/Anomaly/0.png"]
    assert masks(names) == {names[0]: names[2], names[1]: None}
    assert set(classes(names).values()) == {"candle"}


def test_only_the_outer_folder_tells_images_from_masks() -> None:
    names = ["images/masks/a.png", "masks/masks/a.png", "images/images/b.png"]
    assert masks(names) == {"images/masks/a.png": "masks/masks/a.png", "images/images/b.png": None}


@pytest.mark.parametrize("name", ["masks/cut/d.png", "other/masks/a.png"])
def test_mask_without_its_image_is_an_error(name: str) -> None:
    with pytest.raises(
        DataError, match=rf"'{name}' below 'here' has none; expected '.*images/.*' with an image suffix"
    ):
        find_layout([*SIBLINGS, name], folder=FOLDER)


def test_masks_beside_their_images() -> None:
    names = ["cut/a.png", "cut/a_mask.bmp", "cut/b.png", "c.png"]
    assert masks(names) == {"cut/a.png": "cut/a_mask.bmp", "cut/b.png": None, "c.png": None}
    assert classes(names) == {"cut/a.png": "cut", "cut/b.png": "cut", "c.png": "."}


def test_mask_beside_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'cut/b_mask\.png' below 'here' has none; expected 'cut/b'"):
        find_layout(["a.png", "a_mask.png", "cut/b_mask.png"], folder=FOLDER)


def test_mask_that_fits_two_images_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'a_mask\.png' below 'here' fits 'a\.jpg' and 'a\.png'"):
        find_layout(["a.jpg", "a.png", "a_mask.png"], folder=FOLDER)


def test_two_masks_of_one_image_are_an_error() -> None:
    with pytest.raises(DataError, match=r"'images/a\.png' below 'here' has 'masks/a\.png' and 'masks/a_mask\.png'"):
        find_layout(["images/a.png", "masks/a.png", "masks/a_mask.png"], folder=FOLDER)


@pytest.mark.parametrize(
    "names",
    [
        ["a_mask.png", "b_mask.png"],
        ["masks/a.png", "photos/a.png"],
        ["images/a.png", "images/b.png"],
        ["train/good/a.png", "test/cut/a.png"],
        ["a/images/x.png", "b/masks/x.png"],
    ],
)
def test_images_that_are_only_called_masks_stay_images(names: list[str]) -> None:
    layout = find_layout(names, folder=FOLDER)
    assert layout.masks is None
    assert layout.images == tuple(names)
    assert layout.classes == tuple(name.split("/")[0] if "/" in name else "." for name in names)
