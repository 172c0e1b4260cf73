import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState

from autopv.data import textures as textures_module
from autopv.data.images import ImageSet, load_images
from autopv.data.painted_defects import defect_names, paint_defect
from autopv.data.splits import split_images
from autopv.data.textures import load_textures, write_mvtec_tree
from autopv.errors import DataError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs the package scikit-image")


@pytest.fixture(scope="module")
def textures() -> ImageSet:
    return load_images("textures", size_px=32)


def test_set_has_three_textures_good_and_with_four_defects_each(textures: ImageSet) -> None:
    assert textures.images_NCHW.shape == (648, 1, 32, 32)
    assert len(textures.class_names) == 15
    assert textures.class_names[:5] == ("brick/good", "brick/hole", "brick/missing", "brick/scratch", "brick/stain")
    assert textures.labels is not None
    assert np.bincount(textures.labels).tolist() == [72, 36, 36, 36, 36, 36, 72, 36, 36, 36, 72, 36, 36, 36, 36]
    assert textures.has_masks
    assert textures.num_defective == 432


def test_an_image_has_a_mask_exactly_where_it_is_not_good(textures: ImageSet) -> None:
    assert textures.labels is not None
    assert textures.masks_NHW is not None
    bad = torch.tensor([not textures.class_names[label].endswith("good") for label in textures.labels])
    assert torch.equal(textures.masks_NHW.flatten(1).any(dim=1), bad)
    share = textures.masks_NHW[bad].float().mean(dim=(1, 2))
    assert float(share.min()) > 0.005
    assert float(share.max()) < 0.5


# Mean grey level and marked pixels of the first tile's images.
FIRST_TILE = {
    "brick/train/good/00.png": (102.1, 0),
    "brick/test/hole/00.png": (111.5, 449),
    "brick/test/missing/00.png": (101.0, 1384),
    "brick/test/scratch/00.png": (97.6, 390),
    "grass/test/bare/00.png": (127.0, 2078),
    "grass/test/stain/00.png": (124.7, 1419),
    "gravel/test/leaf/00.png": (129.5, 679),
    "gravel/test/stain/00.png": (141.1, 1160),
}


def test_set_is_the_same_on_every_machine() -> None:
    """Up to a level: another processor's rounding may turn one here and there in a resized image."""
    samples = {sample.name: sample for sample in textures_module._make_samples(num_tiles=1)}
    for name, (mean, num_marked) in FIRST_TILE.items():
        assert float(samples[name].pixels_HW.mean()) == pytest.approx(mean, abs=0.5)
        assert int(samples[name].mask_HW.sum()) == pytest.approx(num_marked, abs=0.02 * num_marked)


def test_splits_share_no_tile_and_keep_the_proportions(textures: ImageSet) -> None:
    splits = split_images(textures, seed=0)
    sides = [{textures.groups[i] for i in getattr(splits, name).tolist()} for name in ("train", "search", "final")]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 108
    assert [len(splits.train), len(splits.search), len(splits.final)] == [396, 126, 126]
    assert textures.labels is not None
    counts = np.bincount([textures.labels[i] for i in splits.search.tolist()], minlength=15)
    assert counts.tolist() == [14, 7, 7, 7, 7, 7, 14, 7, 7, 7, 14, 7, 7, 7, 7]


def test_group_by_replaces_the_tiles() -> None:
    loaded = load_images("textures", size_px=8, group_by=r"^\w+")
    assert set(loaded.groups) == {"brick", "grass", "gravel"}


def test_images_of_two_tiles_share_no_pixel_of_the_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    tiles: list[np.ndarray] = []
    numbers = np.arange(512 * 512).reshape(512, 512)
    monkeypatch.setattr(textures_module, "_read_photograph", lambda _: numbers)

    def make_image(tile_HW: np.ndarray, *, kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        if "/train/" in name:
            tiles.append(tile_HW.ravel())
        else:
            assert (tile_HW.ravel() == tiles[-1]).all()
        return np.zeros((96, 96), dtype=np.uint8), np.zeros((96, 96), dtype=bool)

    monkeypatch.setattr(textures_module, "_make_image", make_image)
    list(textures_module._make_samples(num_tiles=36))
    assert len(tiles) == 3 * 36
    assert len(np.unique(np.concatenate(tiles[:36]))) == 510 * 510


@pytest.mark.parametrize("name", defect_names())
def test_mask_is_exactly_what_the_defect_changed(name: str) -> None:
    clean = textures_module._read_photograph("brick")[:96, :96] / 255
    for seed in range(5):
        painted, mask = paint_defect(name, image_HW=clean, random=RandomState(seed))
        assert (painted[~mask] == clean[~mask]).all()
        changed = np.abs(painted - clean)[mask]
        # Here and there paint has the grey of what it covers.
        assert (changed > 1 / 255).mean() > 0.85
        assert changed.mean() > 0.08
        assert painted.min() >= 0
        assert painted.max() <= 1
        assert 0.005 < mask.mean() < 0.45


def test_written_tree_is_the_same_set(textures: ImageSet, tmp_path: Path) -> None:
    write_mvtec_tree(tmp_path / "tree", num_tiles=3)
    read = load_images(tmp_path / "tree", size_px=32, strict=True, group_by=r"^(\w+)/.*/(\d+)")
    assert len(read) == 3 * 3 * 6
    assert read.class_names == textures.class_names
    assert read.masks_NHW is not None
    assert textures.masks_NHW is not None
    assert textures.labels is not None
    rows = [textures.names.index(name) for name in read.names]
    assert torch.equal(read.images_NCHW, textures.images_NCHW[rows])
    assert torch.equal(read.masks_NHW, textures.masks_NHW[rows])
    assert read.labels == tuple(textures.labels[row] for row in rows)
    assert tuple(group.replace("\0", "/") for group in read.groups) == tuple(textures.groups[row] for row in rows)
    one = load_images(tmp_path / "tree" / "grass", size_px=32)
    assert one.class_names == ("bare", "good", "hole", "scratch", "stain")


@pytest.mark.slow
def test_whole_written_tree_has_the_same_digest(textures: ImageSet, tmp_path: Path) -> None:
    write_mvtec_tree(tmp_path / "tree")
    assert load_images(tmp_path / "tree", size_px=32).digest == textures.digest


def test_tree_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="new or empty folder"):
        write_mvtec_tree(tmp_path, num_tiles=1)
    with pytest.raises(DataError, match="new or empty folder"):
        write_mvtec_tree(tmp_path / "notes.txt", num_tiles=1)
    with pytest.raises(DataError, match="1 <= num_tiles <= 36 must hold, but got num_tiles=37"):
        write_mvtec_tree(tmp_path / "new", num_tiles=37)


def test_missing_package_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopv.data.textures.find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        load_textures(size_px=8)


def test_damaged_or_other_photograph_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    spec = importlib.util.spec_from_file_location("skimage", tmp_path / "__init__.py")
    monkeypatch.setattr("autopv.data.textures.find_spec", lambda _: spec)
    with pytest.raises(DataError, match=r"damaged: reading '.*brick\.png' failed: .*No such file"):
        load_textures(size_px=8)
    (tmp_path / "data").mkdir()
    Image.new("L", (512, 512)).save(tmp_path / "data" / "brick.png")
    with pytest.raises(DataError, match=r"one known photograph of brick, but '.*brick\.png' is another"):
        load_textures(size_px=8)


def test_package_is_read_but_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("skimage", "pooch")]:
        monkeypatch.delitem(sys.modules, name)
    textures_module._read_photograph("gravel")
    assert not {"skimage", "pooch"} & set(sys.modules)
