import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from autopv.data.cache import is_mapped, map_cached, read_cached
from autopv.data.row_file import RowFile
from autopv.errors import DataError


def rows(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 3), dtype=np.uint8)


def entries(own_cache: Path) -> list[str]:
    return sorted(os.listdir(own_cache / "images"))


def test_what_was_appended_is_mapped_and_an_entry_like_any_other(own_cache: Path) -> None:
    # From one digit of rows to four: the header keeps its place.
    pieces = [rows(3), rows(1000, seed=1), rows(20, seed=2)]
    with RowFile("key", row_shape=(2, 3)) as file:
        for piece in pieces:
            file.append(piece)
        mapped = file.finish()
    assert is_mapped(mapped)
    assert np.array_equal(mapped, np.concatenate(pieces))
    read = read_cached("key")
    assert read is not None
    assert np.array_equal(read, mapped)
    assert not is_mapped(read)
    assert entries(own_cache) == ["key.npy"]


def test_what_is_written_so_far_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopv.data.row_file._COPIED_ROWS", 4)
    with RowFile("key", row_shape=(2, 3)) as file:
        assert list(file.copies()) == []
        file.append(rows(10))
        assert np.array_equal(np.concatenate(list(file.copies())), rows(10))


def test_an_unfinished_file_leaves_nothing(own_cache: Path) -> None:
    with RowFile("key", row_shape=(2, 3)) as file:
        file.append(rows(10))
        assert len(entries(own_cache)) == 1
    assert entries(own_cache) == []
    assert map_cached("key") is None


def test_writing_to_what_is_mapped_leaves_the_file_alone() -> None:
    with RowFile("key", row_shape=(2, 3)) as file:
        file.append(rows(4))
        mapped = file.finish()
    mapped[:] = 0
    again = map_cached("key")
    assert again is not None
    assert np.array_equal(again, rows(4))


@pytest.mark.parametrize("keep", [0, 5, 140])
def test_a_truncated_file_counts_as_none(own_cache: Path, keep: int) -> None:
    with RowFile("key", row_shape=(2, 3)) as file:
        file.append(rows(100))
        file.finish()
    path = own_cache / "images" / "key.npy"
    path.write_bytes(path.read_bytes()[:keep])
    assert map_cached("key") is None


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    with pytest.raises(DataError, match=r"too many to be held in memory .* let XDG_CACHE_HOME name a folder with room"):
        RowFile("key", row_shape=(2, 3))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_and_the_partial_file_removed(own_cache: Path) -> None:
    with RowFile("key", row_shape=(1024, 1024)) as file, Path("/dev/full").open("r+b") as full:
        os.dup2(full.fileno(), file._file.fileno())
        with pytest.raises(DataError, match="No space left on device"):
            file.append(np.zeros((2, 1024, 1024), dtype=np.uint8))
    assert entries(own_cache) == []
