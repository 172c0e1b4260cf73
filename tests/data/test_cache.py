import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.caching import cache_folder
from autopv.data import folder as folder_module
from autopv.data.cache import read_cached, write_cached
from autopv.data.images import load_images

PIXELS = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, in a folder small enough for a test and large enough to be cached."""
    monkeypatch.setattr(folder_module, "_CACHE_FROM_IMAGES", 2)
    for index in range(3):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 50 * index, dtype=np.uint8)).save(tmp_path / "data" / f"{index}.png")
    return tmp_path / "data"


def entries(own_cache: Path) -> list[str]:
    return sorted(os.listdir(own_cache / "images")) if (own_cache / "images").is_dir() else []


def test_what_was_written_is_read(own_cache: Path) -> None:
    assert read_cached("key") is None
    assert write_cached("key", PIXELS)
    assert entries(own_cache) == ["key.npy"]
    read = read_cached("key")
    assert read is not None
    assert (read == PIXELS).all()


def test_cache_folder_follows_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == own_cache
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/path")
    assert cache_folder() == Path.home() / ".cache" / "autopv"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"rubbish" * 100, b"PK\x03\x04"])
def test_damaged_entry_counts_as_none(own_cache: Path, content: bytes) -> None:
    write_cached("key", PIXELS)
    (own_cache / "images" / "key.npy").write_bytes(content)
    assert read_cached("key") is None


def test_truncated_entry_is_decoded_anew(data: Path, own_cache: Path) -> None:
    digest = load_images(data, size_px=8).digest
    path = own_cache / "images" / entries(own_cache)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert load_images(data, size_px=8).digest == digest
    assert path.read_bytes() == whole


def test_second_load_decodes_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = load_images(data, size_px=8).digest
    monkeypatch.delattr(folder_module, "decode_image")
    assert load_images(data, size_px=8).digest == digest


def test_changed_content_or_size_is_another_entry(data: Path, own_cache: Path) -> None:
    first = load_images(data, size_px=8)
    load_images(data, size_px=9)
    Image.fromarray(np.full((8, 8), 99, dtype=np.uint8)).save(data / "0.png")
    assert load_images(data, size_px=8).digest != first.digest
    assert len(entries(own_cache)) == 3


def add_masks(data: Path, *, defect_px: int) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:defect_px] = 255
    Image.fromarray(mask).save(data / "1_mask.png")


def test_masks_are_kept_beside_the_images(data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_images(data, size_px=8)
    add_masks(data, defect_px=3)
    first = load_images(data, size_px=8)
    # The images' entry serves with and without masks.
    assert len(entries(own_cache)) == 2
    monkeypatch.delattr(folder_module, "decode_image")
    monkeypatch.delattr(folder_module, "decode_mask")
    again = load_images(data, size_px=8)
    assert again.digest == first.digest
    assert again.masks_NHW is not None
    assert again.masks_NHW.dtype == torch.bool
    assert again.masks_NHW.sum(dim=(1, 2)).tolist() == [0, 24, 0]


def test_damaged_mask_entry_is_decoded_anew(data: Path, own_cache: Path) -> None:
    load_images(data, size_px=8)
    images_entry = set(entries(own_cache))
    add_masks(data, defect_px=3)
    digest = load_images(data, size_px=8).digest
    (mask_entry,) = set(entries(own_cache)) - images_entry
    for content in (None, np.zeros((3, 4, 4), dtype=np.uint8)):
        if content is None:
            (own_cache / "images" / mask_entry).write_bytes(b"rubbish")
        else:
            np.save(own_cache / "images" / mask_entry, content)
        assert load_images(data, size_px=8).digest == digest


def test_changed_mask_is_another_entry(data: Path, own_cache: Path) -> None:
    add_masks(data, defect_px=3)
    first = load_images(data, size_px=8)
    add_masks(data, defect_px=4)
    second = load_images(data, size_px=8)
    assert second.digest != first.digest
    assert second.num_defective == 1
    # One of images, two of masks.
    assert len(entries(own_cache)) == 3


def test_mask_that_moves_to_another_image_is_another_entry(data: Path) -> None:
    add_masks(data, defect_px=3)
    load_images(data, size_px=8)
    (data / "1_mask.png").rename(data / "2_mask.png")
    masks_NHW = load_images(data, size_px=8).masks_NHW
    assert masks_NHW is not None
    assert masks_NHW.sum(dim=(1, 2)).tolist() == [0, 0, 24]


def test_broken_mask_is_named_each_time(data: Path) -> None:
    (data / "1_mask.png").write_bytes(b"broken")
    for _ in range(2):
        assert [item.name for item in load_images(data, size_px=8).skipped] == ["1.png"]


def test_few_images_leave_nothing_behind(data: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_CACHE_FROM_IMAGES", 4)
    load_images(data, size_px=8)
    assert entries(own_cache) == []


def test_broken_image_is_named_each_time(data: Path) -> None:
    (data / "1.png").write_bytes(b"broken")
    for _ in range(2):
        assert [item.name for item in load_images(data, size_px=8).skipped] == ["1.png"]


def test_unwritable_cache_is_done_without(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file where the folder should be fails for every user; permissions alone would not stop root.
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert not write_cached("key", PIXELS)
    assert len(load_images(data, size_px=8)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_read_only_cache_is_done_without(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "read-only").mkdir(mode=0o500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "read-only"))
    assert not write_cached("key", PIXELS)
    assert len(load_images(data, size_px=8)) == 3


def test_failed_write_leaves_no_partial_file(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: object, **options: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    assert not write_cached("key", PIXELS)
    assert entries(own_cache) == []


RACE = """
import numpy as np
from autopv.data.cache import read_cached, write_cached
for _ in range(200):
    assert write_cached("raced", np.full((50, 32, 32, 1), 7, dtype=np.uint8))
    read = read_cached("raced")
    assert read is not None and read.shape == (50, 32, 32, 1) and (read == 7).all()
"""


@pytest.mark.slow
def test_racing_processes_never_see_half_an_entry(own_cache: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", RACE]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert entries(own_cache) == ["raced.npy"]
