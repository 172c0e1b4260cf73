import importlib.util
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from source_cases import SIZE_PX, random_images, write_checkpoint, write_images

from autopv.data import demos
from autopv.data.images import load_images
from autopv.errors import CheckpointError, DataError
from autopv.evaluation import model_source
from autopv.evaluation.image_source import SourceChangedError
from autopv.evaluation.sources import FolderSource, ImageSource, TensorSource, open_source

needs_skimage = pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")
needs_elpv = pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="needs elpv-dataset")


def opened(text: Path | str, *, num_samples: int = 70, seed: int = 0) -> ImageSource:
    return open_source(str(text), role="A", num_samples=num_samples, seed=seed)


def in_pieces(source: ImageSource, *cuts: int, channels: int = 1) -> torch.Tensor:
    bounds = [0, *cuts, len(source)]
    chunks = [source.read(*pair, size_px=SIZE_PX, channels=channels) for pair in itertools.pairwise(bounds)]
    return torch.cat([chunk.images_NCHW for chunk in chunks])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


# Folders


def test_folder_gives_what_training_sees(tmp_path: Path) -> None:
    write_images(tmp_path, ["good/b.png", "good/a.jpg", "bad/z.bmp", "bad/y.png"])
    source, image_set = opened(tmp_path), load_images(tmp_path, size_px=SIZE_PX)
    assert (source.kind, source.label, source.names) == ("folder", str(tmp_path), image_set.names)
    assert source.classes == ("bad", "bad", "good", "good")
    assert torch.equal(in_pieces(source), image_set.images_NCHW)
    assert torch.equal(in_pieces(source, 1, 3), image_set.images_NCHW)


def test_images_without_sub_folders_have_no_classes(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    assert opened(tmp_path).classes is None


def test_masks_come_with_their_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    marks = np.zeros((20, 24), dtype=np.uint8)
    marks[:10] = 255
    Image.fromarray(marks).save(tmp_path / "b_mask.png")
    source, image_set = opened(tmp_path), load_images(tmp_path, size_px=SIZE_PX)
    chunk = source.read(0, 2, size_px=SIZE_PX, channels=1)
    assert source.has_masks
    assert chunk.masks_NHW is not None
    assert image_set.masks_NHW is not None
    assert torch.equal(chunk.masks_NHW, image_set.masks_NHW)
    before = source.fingerprint(0, 2)
    Image.fromarray(255 - marks).save(tmp_path / "b_mask.png")
    assert source.fingerprint(0, 2) != before


def test_grey_and_colour_can_be_mixed(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    write_images(tmp_path, ["b.png"], colour=True)
    source = opened(tmp_path)
    assert torch.equal(in_pieces(source, channels=3), load_images(tmp_path, size_px=SIZE_PX, channels=3).images_NCHW)
    assert torch.equal(in_pieces(source, channels=1), load_images(tmp_path, size_px=SIZE_PX, channels=1).images_NCHW)
    # A piece of grey images alone has the channels that were asked for, too.
    assert source.read(0, 1, size_px=SIZE_PX, channels=3).images_NCHW.shape == (1, 3, SIZE_PX, SIZE_PX)


def test_broken_files_are_named_and_leave_the_others_in_place(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "c.png"])
    (tmp_path / "b.png").write_bytes(b"not an image")
    chunk = opened(tmp_path).read(0, 3, size_px=SIZE_PX, channels=1)
    assert chunk.indices == (0, 2)
    assert [(item.name, item.reason) for item in chunk.skipped] == [("b.png", "not a readable image")]
    only_broken = opened(tmp_path).read(1, 2, size_px=SIZE_PX, channels=3)
    assert only_broken.images_NCHW.shape == (0, 3, SIZE_PX, SIZE_PX)


def test_side_is_the_shorter_one_from_headers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, ["a.png"], size=(20, 24))
    write_images(tmp_path, ["b.png"], size=(30, 20))
    (tmp_path / "broken.png").write_bytes(b"not an image")
    monkeypatch.delattr(Image.Image, "load")
    assert opened(tmp_path).side_px == 20
    monkeypatch.undo()
    write_images(tmp_path, ["c.png"], size=(30, 30))
    assert opened(tmp_path).side_px is None


@pytest.mark.parametrize("keep_time", [False, True], ids=["new time", "restored time"])
def test_fingerprint_changes_with_a_file_of_its_stretch(tmp_path: Path, keep_time: bool) -> None:
    write_images(tmp_path, ["a.bmp", "b.bmp", "c.bmp"])
    source = opened(tmp_path)
    before = [source.fingerprint(0, 2), source.fingerprint(2, 3)]
    assert opened(tmp_path).fingerprint(0, 2) == before[0]
    found = (tmp_path / "c.bmp").stat()
    # Bitmaps of one size in pixels have one size in bytes.
    Image.fromarray(np.zeros((20, 24), dtype=np.uint8)).save(tmp_path / "c.bmp")
    if keep_time:
        os.utime(tmp_path / "c.bmp", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert source.fingerprint(0, 2) == before[0]
    assert source.fingerprint(2, 3) != before[1]


def test_equal_files_in_another_folder_are_another_fingerprint(tmp_path: Path) -> None:
    write_images(tmp_path / "one", ["a.png", "b.png"])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert opened(tmp_path / "one").fingerprint(0, 2) != opened(tmp_path / "two").fingerprint(0, 2)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_other_files_in_the_folder_are_noticed(tmp_path: Path, change: str) -> None:
    write_images(tmp_path, ["a.png", "b.png", "c.png"])
    source = opened(tmp_path)
    source.check_unchanged()
    if change == "added":
        write_images(tmp_path, ["d.png"])
    else:
        (tmp_path / "c.png").unlink()
    with pytest.raises(SourceChangedError, match=r"must not change while it is read, but 1 files .* '[cd]\.png'"):
        source.check_unchanged()


# Arrays and tensors


def test_npz_gives_what_training_sees_with_classes_and_masks(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images, masks = random.integers(0, 256, (5, 12, 10, 3), dtype=np.uint8), random.random((5, 12, 10)) < 0.2
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(5) % 2, masks=masks)
    source, image_set = opened(tmp_path / "set.npz"), load_images(tmp_path / "set.npz", size_px=SIZE_PX)
    assert (source.kind, source.side_px, source.names) == ("array", 10, image_set.names)
    assert source.classes == ("0", "1", "0", "1", "0")
    chunk = source.read(0, 5, size_px=SIZE_PX, channels=3)
    assert torch.equal(chunk.images_NCHW, image_set.images_NCHW)
    assert chunk.masks_NHW is not None
    assert image_set.masks_NHW is not None
    assert torch.equal(chunk.masks_NHW, image_set.masks_NHW)


def test_array_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    images = random_images(4).numpy()
    np.save(tmp_path / "a.npy", images)
    np.save(tmp_path / "b.npy", images)
    images[3] = 0
    np.save(tmp_path / "c.npy", images)
    a, b, c = (opened(tmp_path / f"{name}.npy") for name in "abc")
    assert a.fingerprint(0, 4) == b.fingerprint(0, 4) != c.fingerprint(0, 4)
    assert a.fingerprint(0, 2) == c.fingerprint(0, 2) != a.fingerprint(1, 3)


def test_tensors_of_floats_are_rounded_to_8_bits() -> None:
    images = random_images(3, channels=3)
    floats = TensorSource(images / 255 + 0.0009, label="floats")
    assert torch.equal(in_pieces(floats, channels=3), images)
    assert (floats.kind, floats.names, floats.classes, floats.has_masks) == (
        "tensors",
        ("000000", "000001", "000002"),
        None,
        False,
    )


def test_alpha_of_tensors_lies_over_white() -> None:
    assert (in_pieces(TensorSource(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), label="clear"), channels=3) == 255).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(0, 1, 8, 8), "at least 2 images, but 'x' has 0"),
        (torch.zeros(1, 1, 8, 8), "at least 2 images, but 'x' has 1"),
        (torch.zeros(2, 2, 8, 8), r"shape \(N, C, H, W\) with C = 1, 3 or 4, but 'x' has \(2, 2, 8, 8\)"),
        (torch.zeros(2, 8, 8), r"but 'x' has \(2, 8, 8\)"),
        (torch.full((2, 1, 8, 8), torch.nan), "finite and in"),
        (torch.full((2, 1, 8, 8), 255.0), "range from 255 to 255"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "uint8, or float"),
    ],
)
def test_unfit_tensors_are_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorSource(images, label="x")


def test_names_classes_and_masks_must_fit() -> None:
    images = random_images(3)
    with pytest.raises(DataError, match=r"names must be one per image \(3\), but 'x' has 1"):
        TensorSource(images, label="x", names=["a"])
    with pytest.raises(DataError, match=r"classes must be one per image \(3\), but 'x' has 1"):
        TensorSource(images, label="x", classes=["a"])
    with pytest.raises(DataError, match=r"masks must be bool, one per image"):
        TensorSource(images, label="x", masks_NHW=torch.zeros(3, 4, 4, dtype=torch.bool))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 2, "stop": 2}, "0 <= start < stop <= 3 must hold, but got start=2, stop=2"),
        ({"start": 0, "stop": 4}, "stop=4"),
        ({"size_px": 4}, "8 <= size_px <= 1024 must hold, but got size_px=4"),
        ({"channels": 2}, r"channels must be 1 \(grey\) or 3 \(colour\), but got 2"),
    ],
)
def test_reads_out_of_bounds_are_refused(arguments: dict[str, int], message: str) -> None:
    wanted = {"start": 0, "stop": 3, "size_px": 8, "channels": 1, **arguments}
    source = TensorSource(random_images(3), label="x")
    with pytest.raises(DataError, match=message):
        source.read(wanted["start"], wanted["stop"], size_px=wanted["size_px"], channels=wanted["channels"])


# Demo sets


@pytest.mark.slow
@needs_skimage
def test_textures_come_as_training_sees_them() -> None:
    source, image_set = opened("textures"), load_images("textures", size_px=SIZE_PX)
    assert (source.kind, source.side_px, source.names) == ("demo", 96, image_set.names)
    assert source.classes is not None
    assert len(set(source.classes)) == 15
    chunk = source.read(100, 200, size_px=SIZE_PX, channels=1)
    assert torch.equal(chunk.images_NCHW, image_set.images_NCHW[100:200])
    assert chunk.masks_NHW is not None
    assert image_set.masks_NHW is not None
    assert torch.equal(chunk.masks_NHW, image_set.masks_NHW[100:200])


@needs_elpv
def test_elpv_is_read_from_its_files() -> None:
    source = opened("elpv")
    assert isinstance(source, FolderSource)
    assert (source.kind, len(source), source.side_px) == ("demo", 2624, demos.demo_side_px("elpv"))
    assert source.classes is not None
    assert len(set(source.classes)) == 8
    assert source.read(0, 2, size_px=SIZE_PX, channels=1).images_NCHW.shape == (2, 1, SIZE_PX, SIZE_PX)
    source.check_unchanged()


# Models


def test_any_sample_can_be_made_again_alone(checkpoint: Path) -> None:
    whole = in_pieces(opened(checkpoint))
    assert whole.shape == (70, 1, SIZE_PX, SIZE_PX)
    assert torch.equal(in_pieces(opened(checkpoint), 1, 65), whole)
    alone = opened(checkpoint).read(69, 70, size_px=SIZE_PX, channels=1)
    assert torch.equal(alone.images_NCHW, whole[69:])
    assert len(whole.flatten(1).unique(dim=0)) == 70


def test_more_samples_begin_with_the_same_ones(checkpoint: Path) -> None:
    few, many = opened(checkpoint, num_samples=3), opened(checkpoint, num_samples=70)
    assert torch.equal(in_pieces(few), in_pieces(many)[:3])
    assert few.fingerprint(0, 3) == many.fingerprint(0, 3)


def test_another_seed_gives_other_samples(checkpoint: Path) -> None:
    one, other = opened(checkpoint), opened(checkpoint, seed=1)
    assert not torch.equal(in_pieces(one), in_pieces(other))
    assert one.fingerprint(0, 70) != other.fingerprint(0, 70)
    assert one.fingerprint(0, 64) != one.fingerprint(64, 70)


def test_checkpoint_is_known_by_its_content(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert opened(checkpoint).fingerprint(0, 70) == opened(tmp_path / "copy").fingerprint(0, 70)
    write_checkpoint(tmp_path / "other", seed=1)
    assert opened(checkpoint).fingerprint(0, 70) != opened(tmp_path / "other").fingerprint(0, 70)


def test_model_tells_its_size_without_being_loaded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(model_source, "load_generator")
    source = opened(checkpoint / "checkpoint.safetensors")
    assert (source.kind, source.side_px, len(source), source.classes, source.has_masks) == ("model", 8, 70, None, False)
    source.fingerprint(0, 70)


def test_samples_are_resized_when_asked(checkpoint: Path) -> None:
    assert opened(checkpoint).read(0, 2, size_px=20, channels=3).images_NCHW.shape == (2, 3, 20, 20)


def test_replaced_checkpoint_is_noticed(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "copy")
    source = opened(tmp_path / "copy")
    write_checkpoint(tmp_path / "copy", seed=1)
    with pytest.raises(SourceChangedError, match="was replaced; copy the folder"):
        source.read(0, 2, size_px=SIZE_PX, channels=1)


def test_samples_that_are_not_finite_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverged:
        def sample_last_frame(
            self, num_images: int, *, labels: torch.Tensor | None, generator: torch.Generator
        ) -> torch.Tensor:
            return torch.full((num_images, 1, SIZE_PX, SIZE_PX), torch.nan)

    def load(folder: Path, *, device: torch.device) -> tuple[Diverged, None]:
        return Diverged(), None

    monkeypatch.setattr(model_source, "load_generator", load)
    with pytest.raises(DataError, match="take a checkpoint that samples finite images"):
        opened(checkpoint).read(0, 2, size_px=SIZE_PX, channels=1)


def test_run_folder_stands_for_its_model(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(DataError, match=r"must have ended with a model, .* `autopv resume .*`"):
        opened(tmp_path)
    shutil.copytree(checkpoint, tmp_path / "model")
    source = opened(tmp_path)
    assert (source.kind, source.label) == ("model", str(tmp_path))
    assert source.fingerprint(0, 70) == opened(checkpoint).fingerprint(0, 70)


@pytest.mark.parametrize(("content", "message"), [("{", "is damaged"), ('{"format_version": 9}', "has 9")])
def test_unreadable_run_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path)


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        opened(tmp_path)


def test_number_of_samples_must_be_sensible(checkpoint: Path) -> None:
    with pytest.raises(DataError, match="num_samples >= 1 must hold, but got num_samples=0"):
        opened(checkpoint, num_samples=0)


# What is none of these


def test_empty_and_tiny_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files at all"):
        opened(tmp_path)
    write_images(tmp_path, ["a.png"])
    with pytest.raises(DataError, match=r"needs at least 2 images, but .* has 1"):
        opened(tmp_path)


def test_unknown_names_say_what_is_accepted_and_what_is_near(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"A must be a folder .* or of a run, but 'elvp' does not exist\. Did you .*'elpv'"
    ):
        opened("elvp")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="is another kind of file"):
        opened(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "checkpoint.safetensors")
