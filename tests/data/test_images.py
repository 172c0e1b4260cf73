import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.data.images import ImageSet, load_images
from autopv.data.splits import split_images
from autopv.errors import DataError


def write_images(folder: Path, names: list[str], *, seed: int = 0, colour: bool = False) -> None:
    random = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 24, 3) if colour else (20, 24), dtype=np.uint8)).save(path)


def load(source: Any, **options: Any) -> ImageSet:
    return load_images(source, size_px=8, **options)


def test_nested_folder_gives_sorted_names_and_first_level_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ["good/b.png", "good/deep/er/a.jpg", "bad/z.bmp", "bad/y.TIFF", "bad/x.webp"])
    (tmp_path / "bad" / "notes.txt").write_text("not an image")
    write_images(tmp_path, [".hidden/a.png", "bad/.thumbnail.png"])
    image_set = load(tmp_path)
    assert image_set.names == ("bad/x.webp", "bad/y.TIFF", "bad/z.bmp", "good/b.png", "good/deep/er/a.jpg")
    assert image_set.class_names == ("bad", "good")
    assert image_set.labels == (0, 0, 0, 1, 1)
    assert image_set.groups == image_set.names
    assert image_set.images_NCHW.shape == (5, 1, 8, 8)
    assert image_set.images_NCHW.dtype == torch.uint8
    assert (len(image_set), image_set.size_px, image_set.channels) == (5, 8, 1)


def test_one_class_is_no_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["only/a.png", "only/b.png"])
    image_set = load(tmp_path)
    assert image_set.labels is None
    assert image_set.class_names == ()


def test_images_beside_the_class_folders_are_a_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "dent/b.png"])
    assert load(tmp_path).class_names == (".", "dent")


def test_one_colour_image_makes_the_set_colour(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    write_images(tmp_path, ["b.png"], colour=True)
    pixels = load(tmp_path).images_NCHW
    assert pixels.shape == (2, 3, 8, 8)
    assert (pixels[0] == pixels[0, :1]).all()
    assert not (pixels[1] == pixels[1, :1]).all()


def test_channels_can_be_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path, ["b.png"], colour=True)
    colour, grey = load(tmp_path, channels=3).images_NCHW.float(), load(tmp_path, channels=1).images_NCHW.float()
    wanted = (colour[0] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=0)
    assert (grey[0, 0] - wanted).abs().max() <= 0.5
    with pytest.raises(DataError, match=r"channels must be 1 \(grey\) or 3 \(colour\), but got 2"):
        load(tmp_path, channels=2)


def test_broken_image_is_skipped_and_named(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "broken.png").write_bytes(b"not a png")
    image_set = load(tmp_path)
    assert image_set.names == ("a.png", "b.png")
    assert [item.name for item in image_set.skipped] == ["broken.png"]
    assert image_set.skipped[0].reason == "not a readable image"


def test_strict_refuses_a_broken_image(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"1 of 2 are broken: broken\.png \(not a readable image\)"):
        load(tmp_path, strict=True)


def test_only_broken_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a png")
    with pytest.raises(DataError, match=r"none of the 1 files .* the first is 'broken\.png'"):
        load(tmp_path)


def test_folder_without_images_tells_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no files at all"):
        load(tmp_path)
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "README").write_text("")
    with pytest.raises(DataError, match=r"holds 1 x \.txt, 1 x no suffix"):
        load(tmp_path)


def test_missing_folder_names_its_near_sibling(tmp_path: Path) -> None:
    (tmp_path / "solar_cells").mkdir()
    with pytest.raises(DataError, match=r"does not exist.*Did you mean 'solar_cells'"):
        load(tmp_path / "solar_cels")
    with pytest.raises(DataError, match="neither does its parent folder"):
        load(tmp_path / "nowhere" / "cells")


def test_unknown_demo_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'elpv'"):
        load("elvp")


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(DataError, match="another kind of file"):
        load(tmp_path / "images.zip")


def test_group_by_uses_what_it_captures(tmp_path: Path) -> None:
    write_images(tmp_path, ["part1_a.png", "part1_b.png", "part2_a.png"])
    assert load(tmp_path, group_by=r"part(\d+)_").groups == ("1", "1", "2")
    assert load(tmp_path, group_by=r"part\d+").groups == ("part1", "part1", "part2")


@pytest.mark.parametrize(
    ("pattern", "message"), [("part(", "regular expression"), ("piece", "does not match 1 of 1, such as 'part1.png'")]
)
def test_bad_group_by_is_an_error(tmp_path: Path, pattern: str, message: str) -> None:
    write_images(tmp_path, ["part1.png"])
    with pytest.raises(DataError, match=message):
        load(tmp_path, group_by=pattern)


@pytest.mark.parametrize("size_px", [0, 7, 5000])
def test_size_out_of_bounds_is_an_error(tmp_path: Path, size_px: int) -> None:
    with pytest.raises(DataError, match=f"8 <= size_px <= 1024 must hold, but got size_px={size_px}"):
        load_images(tmp_path, size_px=size_px)


def test_digest_depends_on_pixels_names_size_and_channels(tmp_path: Path) -> None:
    write_images(tmp_path / "one", ["a.png", "b.png"])
    write_images(tmp_path / "renamed", ["a.png", "c.png"])
    write_images(tmp_path / "other", ["a.png", "b.png"], seed=1)
    digests = [load(tmp_path / name).digest for name in ("one", "renamed", "other")]
    digests += [load(tmp_path / "one", channels=3).digest, load_images(tmp_path / "one", size_px=9).digest]
    assert len(set(digests)) == 5
    assert load(tmp_path / "one").digest == digests[0]


def write_mask(folder: Path, name: str, *, rows: tuple[int, int], size: tuple[int, int] = (20, 24)) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[slice(*rows)] = 255
    Image.fromarray(mask).save(path)


def write_bottle(folder: Path) -> None:
    write_images(folder, ["train/good/000.png", "test/good/000.png", "test/crack/000.png", "test/crack/001.png"])
    write_mask(folder, "ground_truth/crack/000_mask.png", rows=(0, 5))
    write_mask(folder, "ground_truth/crack/001_mask.png", rows=(10, 20))


def test_mvtec_tree_gives_masks_and_one_class_for_all_good_images(tmp_path: Path) -> None:
    write_bottle(tmp_path)
    image_set = load(tmp_path)
    assert image_set.names == ("test/crack/000.png", "test/crack/001.png", "test/good/000.png", "train/good/000.png")
    assert image_set.class_names == ("crack", "good")
    assert image_set.labels == (0, 0, 1, 1)
    assert image_set.masks_NHW is not None
    assert image_set.masks_NHW.sum(dim=(1, 2)).tolist() == [16, 32, 0, 0]
    assert image_set.masks_NHW[0, :2].all()
    assert (image_set.has_masks, image_set.num_defective) == (True, 2)


def test_several_mvtec_categories_are_classes_apart(tmp_path: Path) -> None:
    write_bottle(tmp_path / "bottle")
    write_bottle(tmp_path / "nut")
    image_set = load(tmp_path)
    assert image_set.class_names == ("bottle/crack", "bottle/good", "nut/crack", "nut/good")
    assert image_set.num_defective == 4


def test_mvtec_image_without_its_mask_is_an_error(tmp_path: Path) -> None:
    write_bottle(tmp_path)
    (tmp_path / "ground_truth" / "crack" / "001_mask.png").unlink()
    with pytest.raises(DataError, match=r"'test/crack/001\.png' .* expected 'ground_truth/crack/001_mask\.png'"):
        load(tmp_path)


def test_sibling_masks_tell_how_many_images_have_a_defect(tmp_path: Path) -> None:
    write_images(tmp_path, ["images/a.png", "images/b.png", "images/c.png"])
    write_mask(tmp_path, "masks/a.png", rows=(0, 10))
    write_mask(tmp_path, "masks/b.png", rows=(0, 0))
    image_set = load(tmp_path)
    assert image_set.names == ("images/a.png", "images/b.png", "images/c.png")
    assert (len(image_set), image_set.num_defective) == (3, 1)
    assert image_set.class_names == ()


def test_folder_without_masks_has_none(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    assert load(tmp_path).masks_NHW is None
    assert (load(tmp_path).has_masks, load(tmp_path).num_defective) == (False, 0)


def test_mask_of_another_size_names_both(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    write_mask(tmp_path, "a_mask.png", rows=(0, 5), size=(10, 24))
    with pytest.raises(
        DataError, match=r"mask 'a_mask\.png' has 24 x 10 pixels and the image 'a\.png' 24 x 20; export"
    ):
        load(tmp_path)


def test_image_with_a_broken_mask_is_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    write_mask(tmp_path, "a_mask.png", rows=(0, 5))
    (tmp_path / "b_mask.png").write_bytes(b"not a png")
    image_set = load(tmp_path)
    assert image_set.names == ("a.png",)
    assert image_set.num_defective == 1
    assert [(item.name, item.reason) for item in image_set.skipped] == [
        ("b.png", "its mask b_mask.png: not a readable image")
    ]
    with pytest.raises(DataError, match=r"1 of 2 are broken: b\.png \(its mask b_mask\.png"):
        load(tmp_path, strict=True)


def test_mask_is_turned_with_its_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((20, 24), dtype=np.uint8)
    pixels[:10] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(pixels).save(tmp_path / "a_mask.png")
    image_set = load(tmp_path)
    assert image_set.masks_NHW is not None
    # The upper half is the right half once it is shown.
    assert image_set.masks_NHW[0].tolist() == [[False] * 4 + [True] * 4] * 8
    assert torch.equal(image_set.images_NCHW[:, 0] > 127, image_set.masks_NHW)


def test_digest_covers_the_masks(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    without = load(tmp_path)
    write_mask(tmp_path, "a_mask.png", rows=(0, 5))
    some = load(tmp_path).digest
    write_mask(tmp_path, "a_mask.png", rows=(0, 10))
    more = load(tmp_path).digest
    (tmp_path / "a_mask.png").rename(tmp_path / "b_mask.png")
    assert len({without.digest, some, more, load(tmp_path).digest}) == 4
    # As it was when there were no masks, so that older runs still know their data.
    plain = hashlib.sha256(b"(2, 1, 8, 8)\na.png\nb.png" + without.images_NCHW.numpy().tobytes())
    assert without.digest == plain.hexdigest()


def test_masks_change_no_split(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{index:03d}.png" for index in range(100)])
    plain = split_images(load(tmp_path), seed=0)
    write_mask(tmp_path, "007_mask.png", rows=(0, 5))
    masked = split_images(load(tmp_path), seed=0)
    assert torch.equal(plain.search, masked.search)
    assert plain.digest != masked.digest


def test_folder_loops_end(tmp_path: Path) -> None:
    write_images(tmp_path, ["sub/a.png"])
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert load(tmp_path).names == ("sub/a.png",)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_unreadable_folder_is_not_passed_over(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "closed/b.png"])
    (tmp_path / "closed").chmod(0)
    with pytest.raises(DataError, match=r"must be readable, but '.*closed'"):
        load(tmp_path)


def test_image_set_checks_its_fields() -> None:
    good: dict[str, Any] = {
        "images_NCHW": torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
        "names": ("a",),
        "labels": None,
        "class_names": (),
        "groups": ("a",),
        "skipped": (),
        "source": "here",
        "digest": "0",
    }
    assert len(ImageSet(**good)) == 1
    for wrong in ({"images_NCHW": torch.zeros(1, 1, 8, 8)}, {"names": ()}, {"groups": ("a", "b")}, {"labels": (0,)}):
        with pytest.raises(DataError):
            ImageSet(**{**good, **wrong})
    assert ImageSet(**good, masks_NHW=torch.zeros(1, 8, 8, dtype=torch.bool)).has_masks
    for masks in (torch.zeros(1, 8, 8), torch.zeros(2, 8, 8).bool(), torch.zeros(1, 1, 8, 8).bool()):
        with pytest.raises(DataError, match=r"masks must be bool, one per image and of its size, shape \(1, 8, 8\)"):
            ImageSet(**good, masks_NHW=masks)


@pytest.mark.slow
def test_elpv_is_the_whole_set_with_classes() -> None:
    pytest.importorskip("elpv_dataset", reason="needs the demo package elpv-dataset")
    first, cached = load("elpv"), load("elpv")
    assert first.images_NCHW.shape == (2624, 1, 8, 8)
    assert len(first.class_names) == 8
    assert first.class_names[0] == "mono 0% defective"
    assert cached.digest == first.digest
    splits = split_images(first, seed=0)
    assert [len(splits.train), len(splits.search), len(splits.final)] == [1600, 512, 512]


def test_missing_elpv_package_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)
    monkeypatch.setattr("autopv.data.demos.find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        load("elpv")


def test_damaged_elpv_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("elpv_dataset", tmp_path / "__init__.py")
    monkeypatch.setattr("autopv.data.demos.find_spec", lambda _: spec)
    with pytest.raises(DataError, match="damaged"):
        load("elpv")
