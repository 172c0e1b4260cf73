import gc
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from feature_cases import SIZE_PX, all_rows, extracted, folder_source, num_seen, tensors
from safetensors.torch import load_file, save_file
from source_cases import StandInExtractor, write_checkpoint

from autopv.errors import DataError
from autopv.evaluation import feature_store, image_source
from autopv.evaluation.feature_store import default_cache, extract, trim_cache
from autopv.evaluation.model_source import ModelSource
from autopv.evaluation.sources import FolderSource

pytestmark = pytest.mark.usefixtures("small_shards")


def test_second_extraction_computes_nothing(tmp_path: Path, cache: Path) -> None:
    source = folder_source(tmp_path / "data")
    first = extracted(source, cache=cache)
    again = extracted(FolderSource.open(tmp_path / "data", label="folder"), cache=cache)
    assert num_seen(source, cache=cache) == 0
    assert torch.equal(all_rows(again), all_rows(first))
    assert (again.digest, again.names) == (first.digest, first.names)


def test_interrupted_work_goes_on_where_it_was(cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        extracted(tensors(), StandInExtractor(fail_after=14), cache=cache)
    assert len(list(cache.iterdir())) == 2
    # Two shards of six are whole; of the third, three images have to be seen again.
    assert num_seen(tensors(), cache=cache) == 8
    assert num_seen(tensors(), cache=cache) == 0


def test_models_are_not_even_loaded_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "model")
    first = extracted(ModelSource(tmp_path / "model", label="model", num_samples=9, seed=0), cache=cache)
    more = ModelSource(tmp_path / "model", label="model", num_samples=15, seed=0)
    # Of 15 samples the first 6 are the same stretch as of 9.
    assert num_seen(more, cache=cache) == 9
    monkeypatch.delattr("autopv.evaluation.model_source.load_generator")
    again = extracted(ModelSource(tmp_path / "model", label="model", num_samples=9, seed=0), cache=cache)
    assert torch.equal(all_rows(again), all_rows(first))


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty", "rubbish"])
def test_damaged_shard_is_computed_anew(cache: Path, damage: str) -> None:
    wanted = all_rows(extracted(tensors(), cache=cache))
    path = sorted(cache.iterdir())[0]
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    path.write_bytes({"truncated": whole[:-9], "one bit": flipped, "empty": b"", "rubbish": b"r" * 500}[damage])
    assert num_seen(tensors(), cache=cache) in (2, 6)
    assert path.read_bytes() == whole
    assert torch.equal(all_rows(extracted(tensors(), cache=cache)), wanted)


def test_shard_of_another_identity_is_never_used(tmp_path: Path, cache: Path) -> None:
    extracted(tensors(), cache=cache)
    other = StandInExtractor(version="2")
    extracted(tensors(), other, cache=cache)
    assert other.num_seen == 20
    # Even where it stands under the name of the one that is wanted.
    extracted(tensors(seed=1), cache=tmp_path / "other")
    foreign = sorted((tmp_path / "other").iterdir())
    for path, wrong in zip(sorted(cache.iterdir()), foreign * 2, strict=True):
        shutil.copy(wrong, path)
    assert num_seen(tensors(), cache=cache) == 20


@pytest.mark.parametrize("change", ["extractor", "precision", "input size", "size", "Pillow", "torch", "decoder"])
def test_whatever_features_depend_on_makes_another_shard(
    cache: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    extracted(tensors(), cache=cache)
    extractor, size_px = StandInExtractor(version="2" if change == "extractor" else "1"), SIZE_PX
    if change == "precision":
        extractor.precision = "bf16"
    if change == "input size":
        extractor.input_size_px = 33
        extractor._weights = torch.zeros(3 * 33 * 33, 5)
    if change == "size":
        size_px = 9
    if change == "Pillow":
        monkeypatch.setattr("PIL.__version__", "0")
    if change == "torch":
        monkeypatch.setattr("torch.__version__", "0")
    if change == "decoder":
        monkeypatch.setattr(feature_store, "DECODER_VERSION", 0)
    extract(tensors(), extractor, size_px=size_px, cache=cache)
    assert extractor.num_seen == 20


@pytest.mark.parametrize("header", ["{}", "[]", "not JSON", '{"identity": {}}'])
def test_header_that_was_edited_is_not_believed(cache: Path, header: str) -> None:
    extracted(tensors(6), cache=cache)
    (path,) = cache.iterdir()
    save_file(load_file(path), path, metadata={"autopv-features": header})
    assert num_seen(tensors(6), cache=cache) == 6


def test_shards_are_small_tensors_without_pickles(cache: Path) -> None:
    extracted(tensors(6), cache=cache)
    (path,) = cache.iterdir()
    assert {name: tuple(tensor.shape) for name, tensor in load_file(path).items()} == {
        "features": (6, 5),
        "pixel_digests": (6, 16),
        "offsets": (6,),
    }


def test_image_that_can_be_read_again_is_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder_source(tmp_path / "data", count=6)
    decode_file = FolderSource._decode

    def failing(self: FolderSource, start: int, stop: int, *, size_px: int) -> list[image_source.Decoded]:
        decoded = list(decode_file(self, start, stop, size_px=size_px))
        if start <= 4 < stop:
            decoded[4 - start] = image_source.Skipped("04.png", "the network's disk is away")
        return decoded

    monkeypatch.setattr(FolderSource, "_decode", failing)
    assert len(extracted(source, cache=cache)) == 5
    assert num_seen(source, cache=cache) == 0
    monkeypatch.undo()
    assert len(extracted(source, cache=cache)) == 6


def test_temporary_features_go_with_their_set() -> None:
    feature_set = extracted(tensors())
    folder = feature_set.files[0].folder
    assert folder.is_dir()
    del feature_set
    gc.collect()
    assert not folder.exists()


def test_failed_extraction_leaves_no_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        extracted(tensors(), StandInExtractor(fail_after=8))
    assert list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("")
    feature_set = extracted(tensors(), cache=tmp_path / "blocked" / "cache")
    assert all_rows(feature_set).shape == (20, 5)


def test_full_disk_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("autopv.evaluation.feature_shards.save_file", full)
    with pytest.raises(DataError, match=r"failed: No space left on device; free some space, or set XDG_CACHE_HOME"):
        extracted(tensors(), cache=cache)


def test_features_that_were_removed_are_told(cache: Path) -> None:
    feature_set = extracted(tensors(), cache=cache)
    shutil.rmtree(cache)
    for use in (feature_set.moments, lambda: feature_set.rows([0])):
        with pytest.raises(DataError, match="the features of 'tensors' must stay on disk while they are used"):
            use()


def test_default_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "autopv" / "features"


def age(path: Path, *, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_cache_is_trimmed_from_the_longest_unused(cache: Path) -> None:
    extracted(tensors(), cache=cache)
    paths = sorted(cache.iterdir())
    for days, path in zip((4, 3, 2, 0.5), paths, strict=True):
        age(path, days=days)
    sizes = [path.stat().st_size for path in paths]
    assert trim_cache(cache, limit_bytes=sum(sizes)) == 0
    assert trim_cache(cache, limit_bytes=sum(sizes) - sizes[0] - 1) == sizes[0] + sizes[1]
    assert sorted(cache.iterdir()) == paths[2:]
    # What was used within a day may be in use.
    assert trim_cache(cache, limit_bytes=0) == sizes[2]
    assert sorted(cache.iterdir()) == paths[3:]


def test_use_counts_and_strangers_stay(cache: Path) -> None:
    extracted(tensors(), cache=cache)
    for path in cache.iterdir():
        age(path, days=9)
    extracted(tensors(), cache=cache)
    assert trim_cache(cache, limit_bytes=0) == 0
    (cache / "notes.txt").write_text("not a shard")
    (cache / ".shard.1.partial").write_text("half a shard")
    age(cache / "notes.txt", days=9)
    age(cache / ".shard.1.partial", days=9)
    assert trim_cache(cache) == len("half a shard")
    assert (cache / "notes.txt").exists()
