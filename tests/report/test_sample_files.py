from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.errors import InputError
from autopv.evaluation.file_sources import FolderSource, open_array
from autopv.report.sample_files import MAX_SHOWN, PngFolder, open_sample_files


def videos(count=3, *, num_frames=1, channels=3, side=8):
    shape = (count, num_frames, channels, side, side)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def open_for(out, frames_NTCHW, *, num_samples=None):
    return open_sample_files(out, num_samples=num_samples or len(frames_NTCHW), frames_TCHW=frames_NTCHW.shape[1:])


def write(out, frames_NTCHW, *, batch=2):
    with open_for(out, frames_NTCHW) as files:
        for part in frames_NTCHW.split(batch):
            files.write(part)
    return files.num_written


def _write_then_interrupt(files, frames_NTCHW, *, classes=None):
    files.write(frames_NTCHW, classes=classes)
    raise KeyboardInterrupt


def write_by_class(out, frames_NTCHW, classes):
    with open_for(out, frames_NTCHW) as files:
        for start in range(0, len(classes), 2):
            files.write(frames_NTCHW[start : start + 2], classes=classes[start : start + 2])
    return files.num_written


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def read_back(out: Path) -> torch.Tensor:
    """What `autopv evaluate` reads from there."""
    source = FolderSource.open(out, label="samples") if out.is_dir() else open_array(out, label="samples")
    assert source.side_px == 8
    return source.read(0, len(source), size_px=8, channels=3).images_NCHW


@pytest.mark.parametrize("out", ["samples", "samples.npz"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_evaluation_reads_back_the_very_images(tmp_path, out, channels):
    images = videos(5, channels=channels)
    assert write(tmp_path / out, images) == 5
    assert torch.equal(read_back(tmp_path / out), images[:, 0].expand(-1, 3, -1, -1))


def test_grey_images_are_grey_files(tmp_path):
    write(tmp_path / "samples", videos(1, channels=1))
    with Image.open(tmp_path / "samples" / "00000.png") as image:
        assert image.mode == "L"


@pytest.mark.parametrize("out", ["samples", "samples.npz"])
def test_an_evaluation_reads_back_the_classes(tmp_path, out):
    images = videos(3)
    assert write_by_class(tmp_path / out, images, ["good", "crack", "good"]) == 3
    path = tmp_path / out
    source = FolderSource.open(path, label="samples") if path.is_dir() else open_array(path, label="samples")
    found = dict(zip(source.names, source.classes, strict=True))
    if path.is_dir():
        assert found == {"crack/00001.png": "crack", "good/00000.png": "good", "good/00002.png": "good"}
    else:
        assert list(found.values()) == ["good", "crack", "good"]


def test_classes_order_a_picture_and_make_folders_of_videos(tmp_path):
    frames = videos(3, num_frames=2)
    classes = ["good", ".", "crack/deep"]
    write_by_class(tmp_path / "videos", frames, classes)
    folders = ["00001", "crack/deep/00002", "good/00000"]
    assert names(tmp_path / "videos") == [f"{folder}/{t}.png" for folder in folders for t in (1, 2)]
    write_by_class(tmp_path / "a.png", frames, classes)
    write(tmp_path / "b.png", frames[[1, 2, 0]])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_an_interruption_within_a_class_leaves_what_is_whole(tmp_path):
    files = open_for(tmp_path / "out", videos(3))
    with pytest.raises(KeyboardInterrupt), files:
        _write_then_interrupt(files, videos(1), classes=["good"])
    assert (files.num_written, names(tmp_path / "out")) == (1, ["good/00000.png"])


def test_a_video_is_a_folder_with_the_most_corrupted_frame_first(tmp_path):
    frames = videos(2, num_frames=10)
    write(tmp_path / "out", frames)
    assert names(tmp_path / "out") == [f"0000{i}/{t:02d}.png" for i in range(2) for t in range(1, 11)]
    for t in (1, 10):
        with Image.open(tmp_path / "out" / "00001" / f"{t:02d}.png") as image:
            assert np.array_equal(np.asarray(image), frames[1, t - 1].permute(1, 2, 0).numpy())


def test_an_array_of_videos_holds_every_frame(tmp_path):
    frames = videos(3, num_frames=4)
    write(tmp_path / "out.npz", frames)
    with np.load(tmp_path / "out.npz") as stored:
        assert stored.files == ["frames_NTCHW"]
        assert np.array_equal(stored["frames_NTCHW"], frames.numpy())


@pytest.mark.parametrize("suffix", ["gif", "webp"])
@pytest.mark.parametrize("num_frames", [1, 4])
def test_an_animation_moves_through_the_frames(tmp_path, suffix, num_frames):
    write(tmp_path / f"out.{suffix}", videos(num_frames=num_frames))
    with Image.open(tmp_path / f"out.{suffix}") as picture:
        assert getattr(picture, "n_frames", 1) == num_frames


def test_a_picture_has_a_row_per_video_or_a_grid_of_images(tmp_path):
    write(tmp_path / "videos.png", videos(2, num_frames=5))
    write(tmp_path / "images.png", videos(9))
    with Image.open(tmp_path / "videos.png") as rows, Image.open(tmp_path / "images.png") as grid:
        assert rows.width > 2 * rows.height
        assert grid.width == grid.height


def test_numbers_are_wide_enough_to_sort(tmp_path):
    with open_for(tmp_path / "out", videos(1), num_samples=1_000_001) as files:
        files.write(videos(1))
    assert names(tmp_path / "out") == ["0000000.png"]


@pytest.mark.parametrize("out", ["out", "out.npz", "out.png"])
def test_after_an_interruption_what_is_counted_is_whole(tmp_path, out):
    frames = videos(6)
    files = open_for(tmp_path / out, frames)
    with pytest.raises(KeyboardInterrupt), files:
        _write_then_interrupt(files, frames[:4])
    assert files.num_written == 4
    if out != "out.png":
        assert torch.equal(read_back(tmp_path / out), frames[:4, 0])
    assert not [name for name in names(tmp_path) if "part" in name]


@pytest.mark.parametrize("num_frames", [1, 2])
def test_an_interruption_between_a_file_and_its_count_miscounts_nothing(tmp_path, monkeypatch, num_frames):
    real = Path.replace

    def interrupted(self, target):
        real(self, target)
        if target.stem == "00001":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    files = open_for(tmp_path / "out", videos(3, num_frames=num_frames))
    with pytest.raises(KeyboardInterrupt), files:
        files.write(videos(3, num_frames=num_frames))
    assert files.num_written == len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize("out", ["out", "out.npz"])
def test_an_interruption_before_the_first_sample_leaves_nothing(tmp_path, out):
    with pytest.raises(KeyboardInterrupt), open_for(tmp_path / out, videos()):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("num_frames", [1, 3])
def test_on_a_full_disk_what_was_written_stays_and_no_half_of_anything(tmp_path, num_frames, file_size_limit):
    frames = videos(4, num_frames=num_frames) // 255 * 255
    frames[2, -1] = videos(1)[0, 0]  # noise takes more bytes than a file may have
    files = open_for(tmp_path / "out", frames)
    with pytest.raises(OSError, match="too large"), file_size_limit(200), files:
        files.write(frames)
    assert files.num_written == 2
    whole = ["00000.png", "00001.png"] if num_frames == 1 else [f"0000{i}/{t}.png" for i in (0, 1) for t in (1, 2, 3)]
    assert names(tmp_path / "out") == whole


def test_an_array_for_which_there_is_no_room_leaves_nothing(tmp_path, file_size_limit):
    files = open_for(tmp_path / "out.npz", videos())
    with pytest.raises(OSError, match="too large"), file_size_limit(200), files:
        files.write(videos())
    assert files.num_written == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out", ["out", "out.npz", "out.png"])
def test_nothing_is_overwritten(tmp_path, out):
    write(tmp_path / out, videos())
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    with pytest.raises(InputError, match="nothing is overwritten"):
        open_for(tmp_path / out, videos())
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    assert isinstance(open_for(tmp_path / "out", videos()), PngFolder)


@pytest.mark.parametrize(
    ("out", "count", "channels", "says"),
    [
        ("out.mp4", 3, 3, r"must be a folder, or end in \.npz, \.png, \.gif, \.webp"),
        ("out.png", MAX_SHOWN + 1, 3, f"at most {MAX_SHOWN}"),
        ("out", 3, 4, "this model has 4"),
        ("out.npz", 10**15, 3, "GB are free"),
        ("file/out", 3, 3, "cannot be written"),
        ("file/out.npz", 3, 3, "cannot be written"),
    ],
)
def test_what_cannot_be_written_is_told_before_sampling(tmp_path, out, count, channels, says):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=says):
        open_sample_files(tmp_path / out, num_samples=count, frames_TCHW=(1, channels, 8, 8))
    assert names(tmp_path) == ["file"]
