"""Sets that would not fit in memory: the same, bit for bit, read from a mapped file."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from standard_cases import write_celeba, write_mnist
from torch import Tensor

from autopv.data import folder as folder_module
from autopv.data.filed import FiledTensor, file_rows, take_rows
from autopv.data.images import ImageSet, load_images
from autopv.data.splits import split_images
from autopv.errors import DataError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few at a time that small sets take several pieces, the last of them not a whole one."""
    monkeypatch.setattr(folder_module, "_PIECE_IMAGES", 4)
    monkeypatch.setattr("autopv.data.filed.PIECE_IMAGES", 4)


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopv.data.memory.MEMORY_SHARE", 0.0)


def is_mapped(tensor: Tensor) -> bool:
    """Whether the tensor's bytes lie in a mapping of a file of the cache."""
    address = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, rest = line.partition(" ")
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return "autopv/images/" in rest
    return False


def same(one: ImageSet, other: ImageSet) -> bool:
    assert (one.masks_NHW is None) == (other.masks_NHW is None)
    return (
        torch.equal(one.images_NCHW, other.images_NCHW)
        and (one.masks_NHW is None or torch.equal(one.masks_NHW, other.masks_NHW))
        and one.digest == other.digest
        and (one.names, one.labels, one.skipped) == (other.names, other.labels, other.skipped)
    )


def write_images(folder: Path, *, colours: str) -> None:
    """One image for each letter: g grey, c colour, x broken."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, colour in enumerate(colours):
        path = folder / f"{index:02d}.png"
        if colour == "x":
            path.write_bytes(b"broken")
        else:
            shape = (20, 24, 3) if colour == "c" else (20, 24)
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.mark.parametrize("colours", ["ggggggggg", "ccccccccc", "ggggggcgg", "cgggggggg", "gxggggxgg", "xxxxxgcgg"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_a_folder_is_the_same_mapped_and_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: str, channels: int | None
) -> None:
    write_images(tmp_path / "data", colours=colours)
    held = load_images(tmp_path / "data", size_px=8, channels=channels)
    no_memory(monkeypatch)
    for _ in range(2):
        mapped = load_images(tmp_path / "data", size_px=8, channels=channels)
        assert same(mapped, held)
        assert is_mapped(mapped.images_NCHW)
        assert mapped.images_NCHW.is_contiguous()
    assert not is_mapped(held.images_NCHW)


def test_the_second_load_of_a_mapped_set_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data", colours="gcgcgcg")
    no_memory(monkeypatch)
    digest = load_images(tmp_path / "data", size_px=8).digest
    monkeypatch.delattr(folder_module, "decode_image")
    assert load_images(tmp_path / "data", size_px=8).digest == digest


def test_a_held_set_and_a_mapped_one_share_an_entry(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "_CACHE_FROM_IMAGES", 2)
    write_images(tmp_path / "data", colours="gcgcgcg")
    held = load_images(tmp_path / "data", size_px=8)
    no_memory(monkeypatch)
    monkeypatch.delattr(folder_module, "decode_image")
    assert same(load_images(tmp_path / "data", size_px=8), held)
    assert len(list((own_cache / "images").iterdir())) == 1


def test_masks_are_mapped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data", colours="gcggggggg")
    for name in ("01", "05"):
        mask = np.zeros((20, 24), dtype=np.uint8)
        mask[3:9, 4:12] = 255
        Image.fromarray(mask).save(tmp_path / "data" / f"{name}_mask.png")
    held = load_images(tmp_path / "data", size_px=9)
    no_memory(monkeypatch)
    for _ in range(2):
        mapped = load_images(tmp_path / "data", size_px=9)
        assert same(mapped, held)
        assert mapped.masks_NHW is not None
        assert is_mapped(mapped.masks_NHW)
        assert mapped.num_defective == 2


@pytest.mark.parametrize("channels", [None, 3])
def test_sets_that_come_as_arrays_are_mapped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int | None
) -> None:
    write_mnist(tmp_path, count=10)
    held = load_images(f"mnist:{tmp_path}", size_px=16, channels=channels)
    no_memory(monkeypatch)
    for _ in range(2):
        mapped = load_images(f"mnist:{tmp_path}", size_px=16, channels=channels)
        assert same(mapped, held)
        assert is_mapped(mapped.images_NCHW)


def test_celeba_is_mapped_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path, monkeypatch, count=9)
    held = load_images(f"celeba:{tmp_path}", size_px=16)
    no_memory(monkeypatch)
    mapped = load_images(f"celeba:{tmp_path}", size_px=16)
    assert same(mapped, held)
    assert is_mapped(mapped.images_NCHW)


def test_splits_of_a_mapped_set_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data", colours="c" * 100)
    held = split_images(load_images(tmp_path / "data", size_px=8), seed=3)
    no_memory(monkeypatch)
    assert split_images(load_images(tmp_path / "data", size_px=8), seed=3).digest == held.digest


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
def test_rows_are_the_same_taken_from_memory_and_from_a_file(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    images = torch.randint(0, 2, (20, 3, 5), generator=torch.Generator().manual_seed(0)).to(dtype)
    rows_N = torch.tensor([0, 3, 4, 7, 8, 12, 19])
    held = take_rows(images, rows_N, key="some")
    no_memory(monkeypatch)
    for _ in range(2):
        mapped = take_rows(images, rows_N, key="some")
        assert torch.equal(mapped, held)
        assert mapped.dtype == dtype
        assert is_mapped(mapped)
    assert torch.equal(take_rows(images, torch.tensor([1, 2]), key="other rows"), images[[1, 2]])


def test_a_file_of_rows_travels_small_and_is_told_when_it_has_gone() -> None:
    images = torch.zeros(1000, 3, 8, 8, dtype=torch.uint8)
    filed = file_rows(images, torch.arange(900), key="some")
    sent = pickle.dumps(filed)
    assert len(sent) < 1000
    received = pickle.load(io.BytesIO(sent))
    assert isinstance(received, FiledTensor)
    assert torch.equal(received.open(), images[:900])
    filed.path.unlink()
    with pytest.raises(DataError, match="no longer there or is damaged; resume the run"):
        received.open()


def test_a_cache_that_cannot_be_written_refuses_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "data", colours="ggg")
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert len(load_images(tmp_path / "data", size_px=8)) == 3
    no_memory(monkeypatch)
    with pytest.raises(DataError, match="too many to be held in memory"):
        load_images(tmp_path / "data", size_px=8)
