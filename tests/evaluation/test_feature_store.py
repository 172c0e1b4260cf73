import gc
import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from source_cases import StandInExtractor, random_images, write_checkpoint, write_images

from autopv.data.tensors import to_float
from autopv.errors import DataError, MetricError
from autopv.evaluation import feature_store, image_source
from autopv.evaluation.feature_set import FeatureIdentity, FeatureSet
from autopv.evaluation.feature_store import default_cache, extract, trim_cache
from autopv.evaluation.image_source import SourceChangedError
from autopv.evaluation.model_source import ModelSource
from autopv.evaluation.sources import FolderSource, ImageSource, TensorSource
from autopv.metrics.features import Extractor
from autopv.metrics.frechet import feature_moments

SIZE_PX = 8


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 6 images, read 3 at a time, so that few images make several."""
    monkeypatch.setattr(feature_store, "SHARD_IMAGES", 6)
    monkeypatch.setattr(feature_store, "_READ_IMAGES", 3)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def tensors(count: int = 20, *, seed: int = 0) -> TensorSource:
    return TensorSource(random_images(count, seed=seed), label="tensors")


def extracted(source: ImageSource, extractor: Extractor | None = None, *, cache: Path | None = None) -> FeatureSet:
    return extract(source, extractor or StandInExtractor(), size_px=SIZE_PX, cache=cache)


def all_rows(feature_set: FeatureSet) -> torch.Tensor:
    return torch.cat(list(feature_set.shards()))


def num_seen(source: ImageSource, *, cache: Path | None) -> int:
    extractor = StandInExtractor()
    extracted(source, extractor, cache=cache)
    return extractor.num_seen


def folder_source(folder: Path, *, count: int = 14) -> FolderSource:
    write_images(folder, [f"{index:02d}.png" for index in range(count)])
    return FolderSource.open(folder, label="folder")


# What comes out


def test_features_are_those_of_all_images_at_once() -> None:
    feature_set = extracted(tensors())
    wanted = StandInExtractor().features(to_float(random_images(20)).expand(-1, 3, -1, -1))
    torch.testing.assert_close(all_rows(feature_set), wanted)
    assert [len(shard) for shard in feature_set.shards()] == [6, 6, 6, 2]
    assert len(feature_set) == 20
    assert feature_set.num_features == 5


@pytest.mark.parametrize(("shard_images", "read_images"), [(6, 1), (6, 6), (4, 4), (256, 64)])
def test_result_does_not_depend_on_the_batches(
    monkeypatch: pytest.MonkeyPatch, shard_images: int, read_images: int
) -> None:
    before = extracted(tensors())
    monkeypatch.setattr(feature_store, "SHARD_IMAGES", shard_images)
    monkeypatch.setattr(feature_store, "_READ_IMAGES", read_images)
    after = extracted(tensors())
    torch.testing.assert_close(all_rows(after), all_rows(before))
    assert after.digest == before.digest
    assert after.pixel_digests == before.pixel_digests


def test_default_shards_hold_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert feature_store.SHARD_IMAGES % feature_store._READ_IMAGES == 0


def test_rows_come_in_the_order_asked_for() -> None:
    feature_set = extracted(tensors())
    wanted = [19, 0, 7, 7, 3]
    assert torch.equal(feature_set.rows(wanted), all_rows(feature_set)[wanted])
    assert torch.equal(feature_set.rows(torch.tensor(wanted)), feature_set.rows(wanted))
    assert feature_set.rows([]).shape == (0, 5)


@pytest.mark.parametrize("indices", [[20], [-1], torch.ones(20, dtype=torch.bool), [0.0]])
def test_rows_that_are_not_there_are_refused(indices: list[int]) -> None:
    with pytest.raises(MetricError, match="row"):
        extracted(tensors()).rows(indices)


def test_moments_equal_those_of_all_features_at_once() -> None:
    feature_set = extracted(tensors())
    merged, wanted = feature_set.moments(), feature_moments(all_rows(feature_set))
    torch.testing.assert_close(merged.mean_D, wanted.mean_D, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.covariance_DD, wanted.covariance_DD, rtol=1e-12, atol=1e-14)


class FarExtractor(StandInExtractor):
    """Features a million away from zero with a spread of about one."""

    def forward_rgb(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return super().forward_rgb(images_BCHW).round() + 2.0**20


def test_a_mean_far_from_zero_costs_the_moments_no_digits() -> None:
    feature_set = extracted(tensors(), FarExtractor())
    merged, shifted = feature_set.moments(), feature_moments(all_rows(feature_set).double() - 2.0**20)
    torch.testing.assert_close(merged.covariance_DD, shifted.covariance_DD, rtol=1e-9, atol=1e-9)


def test_equal_images_make_a_set_without_spread() -> None:
    feature_set = extracted(TensorSource(torch.full((20, 1, 8, 8), 77, dtype=torch.uint8), label="constant"))
    assert feature_set.num_duplicates == 19
    assert (feature_set.moments().covariance_DD == 0).all()


def test_duplicates_are_known_by_their_pixels(tmp_path: Path) -> None:
    grey = random_images(1)[0, 0].numpy()
    for name, pixels in (("a.png", grey), ("b.bmp", np.stack([grey] * 3, axis=-1)), ("c.png", 255 - grey)):
        Image.fromarray(pixels).save(tmp_path / name)
    feature_set = extracted(FolderSource.open(tmp_path, label="folder"))
    assert feature_set.num_duplicates == 1
    pixels = np.repeat(grey[None], 3, axis=0).tobytes()
    assert feature_set.pixel_digests[0] == feature_set.pixel_digests[1] == hashlib.sha256(pixels).digest()[:16]


def test_digest_is_of_the_pixels_and_their_order(tmp_path: Path) -> None:
    images = random_images(4, channels=3)
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"name{index}.png")
    digest = extracted(TensorSource(images, label="tensors")).digest
    assert extracted(FolderSource.open(tmp_path, label="folder")).digest == digest
    assert extracted(TensorSource(images.flip(0), label="tensors")).digest != digest
    larger = extract(TensorSource(images, label="tensors"), StandInExtractor(), size_px=9, cache=None)
    assert larger.digest != digest


def test_identity_names_what_made_the_features() -> None:
    assert extracted(tensors()).identity == FeatureIdentity(
        extractor="stand-in",
        extractor_digest="digest 1",
        precision="fp32",
        input_size_px=32,
        size_px=SIZE_PX,
        device="cpu",
    )


def test_broken_images_are_left_out_and_the_rest_stays_aligned(tmp_path: Path, cache: Path) -> None:
    write_images(tmp_path / "data", [f"{kind}/{index}.png" for kind in ("bad", "good") for index in range(5)])
    broken = ("bad/1.png", "good/0.png", "good/1.png", "good/2.png", "good/3.png", "good/4.png")
    for name in broken:
        (tmp_path / "data" / name).write_bytes(b"broken")
    source = FolderSource.open(tmp_path / "data", label="folder")
    for _ in range(2):  # computed, then taken from the cache
        feature_set = extracted(source, cache=cache)
        assert tuple(item.name for item in feature_set.skipped) == broken
        assert feature_set.names == ("bad/0.png", "bad/2.png", "bad/3.png", "bad/4.png")
        assert feature_set.indices == (0, 2, 3, 4)
        assert feature_set.classes == ("bad",) * 4
        # Of the second shard no image is left.
        assert feature_set.file_sizes == (4, 0)
        assert [len(shard) for shard in feature_set.shards()] == [4]
    clean = source.read(3, 4, size_px=SIZE_PX, channels=3).images_NCHW
    torch.testing.assert_close(feature_set.rows([2]), StandInExtractor().features(to_float(clean)))
    for used in (cache, None):
        with pytest.raises(DataError, match=r"with strict .* 2 of the first 6 of \'folder\' are broken: bad/1\.png"):
            extract(source, StandInExtractor(), size_px=SIZE_PX, cache=used, strict=True)


def test_too_few_readable_images_are_refused(tmp_path: Path) -> None:
    source = folder_source(tmp_path, count=3)
    for name in ("00.png", "02.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"at least 2 readable images, but 'folder' has 1; left out: 00\.png"):
        extracted(source)


class NanExtractor(StandInExtractor):
    def forward_rgb(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        features_BD = super().forward_rgb(images_BCHW)
        features_BD[1, 0] = torch.nan
        return features_BD


def test_features_that_are_not_finite_are_refused_and_not_kept(cache: Path) -> None:
    with pytest.raises(MetricError, match=r"must be finite, .* \(with images '000000' to '000002' of 'tensors'\)"):
        extracted(tensors(), NanExtractor(), cache=cache)
    assert list(cache.iterdir()) == []


def test_progress_counts_images_to_the_end(cache: Path) -> None:
    told: list[tuple[int, int]] = []
    for _ in range(2):
        extract(tensors(), StandInExtractor(), size_px=8, cache=cache, on_progress=lambda *step: told.append(step))
    assert told == [(done, 20) for done in (3, 6, 9, 12, 15, 18, 20, 6, 12, 18, 20)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_of_a_gpu_are_close_and_kept_apart(tmp_path: Path, cache: Path) -> None:
    class OnDevice(StandInExtractor):
        def forward_rgb(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            assert images_BCHW.is_cuda
            self._weights = self._weights.to(images_BCHW.device)
            return super().forward_rgb(images_BCHW)

    write_checkpoint(tmp_path / "model")
    for source in (tensors(), ModelSource(tmp_path / "model", label="m", num_samples=9, seed=0, device="cuda")):
        on_cpu = extracted(source, cache=cache)
        on_gpu = extract(source, OnDevice(), size_px=SIZE_PX, cache=cache, device="cuda")
        assert (on_gpu.identity.device, on_gpu.digest) == ("cuda", on_cpu.digest)
        torch.testing.assert_close(all_rows(on_gpu), all_rows(on_cpu), rtol=1e-4, atol=1e-3)


# The cache


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


# Images that change while they are read


class Meddler(StandInExtractor):
    """Does something when the second shard is computed."""

    def __init__(self, meddle: object) -> None:
        super().__init__()
        self._meddle = meddle

    def forward_rgb(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        if self.num_seen == 9:
            self._meddle()
        return super().forward_rgb(images_BCHW)


@pytest.mark.parametrize("place", ["00.png", "08.png", "13.png"])
@pytest.mark.parametrize("change", ["rewritten", "removed", "added"])
def test_folder_that_changes_while_it_is_read_is_an_error(tmp_path: Path, cache: Path, place: str, change: str) -> None:
    source = folder_source(tmp_path / "data")

    def meddle() -> None:
        if change == "rewritten":
            write_images(tmp_path / "data", [place], size=(21, 21))
        elif change == "removed":
            (tmp_path / "data" / place).unlink()
        else:
            write_images(tmp_path / "data", [f"new-{place}"])

    # What is not read yet, when it is rewritten, is read as it is now; nobody could tell.
    if (change, place) == ("rewritten", "13.png"):
        assert len(extracted(source, Meddler(meddle), cache=cache)) == 14
        return
    with pytest.raises(SourceChangedError, match=r"must not change while .* run again when nothing writes there"):
        extracted(source, Meddler(meddle), cache=cache)
    assert list(cache.iterdir()) == []


def test_shards_of_an_earlier_whole_reading_outlive_a_change(tmp_path: Path, cache: Path) -> None:
    source = folder_source(tmp_path / "data")
    extracted(source, cache=cache)
    write_images(tmp_path / "data", ["13.png"], size=(21, 21))
    assert num_seen(FolderSource.open(tmp_path / "data", label="folder"), cache=cache) == 2
