import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_cases import SIZE_PX, all_rows, extracted, folder_source, num_seen, tensors
from PIL import Image
from source_cases import StandInExtractor, random_images, write_checkpoint, write_images

from autopv.data.tensors import to_float
from autopv.errors import DataError, MetricError
from autopv.evaluation import feature_store
from autopv.evaluation.feature_set import FeatureIdentity
from autopv.evaluation.feature_store import extract
from autopv.evaluation.image_source import SourceChangedError
from autopv.evaluation.model_source import ModelSource
from autopv.evaluation.sources import FolderSource, TensorSource
from autopv.metrics.frechet import feature_moments

pytestmark = pytest.mark.usefixtures("small_shards")


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
