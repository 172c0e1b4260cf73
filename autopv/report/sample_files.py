"""Samples as files: a folder of PNG files, one array, or one picture to look at; written as they come."""

import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from autopv.data.class_labels import NO_CLASS
from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.errors import InputError
from autopv.report.preview import ANIMATIONS, save_animation

# A picture of more than these is not looked at, and all of it is held in memory.
MAX_SHOWN = 256
_SHOWN_PX = 64
_DIGITS = 5


class SampleFiles(ABC):
    """Where samples go, used by `with`: at its end, even by an interruption, what `num_written` counts is whole.

    num_samples: how many will come at most. frames_TCHW: the shape of each; images are videos of one frame.
    """

    def __init__(self, out: Path, *, num_samples: int, frames_TCHW: tuple[int, int, int, int]) -> None:
        self.out = out
        self.num_samples = num_samples
        self.frames_TCHW = frames_TCHW
        self.num_written = 0

    @abstractmethod
    def write(self, frames_BTCHW: Tensor, *, classes: Sequence[str] | None = None) -> None:
        """Takes the next samples, uint8, and the class of each where that is to be told. Raises: OSError."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing; what was taken is on the disk. Raises: OSError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What could not be written once is not tried again: the disk is full, or gone.
        if not isinstance(error, OSError):
            self.finish()


def open_sample_files(out: Path, *, num_samples: int, frames_TCHW: tuple[int, int, int, int]) -> SampleFiles:
    """The files that the ending of `out` stands for, made ready before the first sample is drawn.

    A folder holds 00000.png and so on, or of videos 00000/1.png (most corrupted) and so on. An .npz file holds `images`
    (N, H, W, C), or of videos `frames_NTCHW`, uint8. A .png file shows a grid of images, or one video per row;
    a .gif or .webp file shows videos in motion. Classes, where they are told, are sub-folders of a folder, `labels` of
    an .npz file, and the order of a picture.

    Raises:
        InputError: something is there already, another ending, more than such a file or the disk takes, or no right
            to write.
    """
    suffix = out.suffix.lower()
    kind = _KINDS.get(suffix, PngFolder)
    channels = frames_TCHW[1]
    if suffix in _FOREIGN:
        raise InputError(f"--out {out} must be a folder, or end in {', '.join(_KINDS)}")
    if kind is not ArrayFile and channels not in (1, 3):
        raise InputError(f"--out {out}: pictures have 1 or 3 channels, but this model has {channels}; take .npz")
    if kind is Picture and num_samples > MAX_SHOWN:
        raise InputError(
            f"--out {out}: a picture shows at most {MAX_SHOWN} samples, but got {num_samples}; "
            "lower -n, or take a folder or an .npz file"
        )
    return kind(out, num_samples=num_samples, frames_TCHW=frames_TCHW)


class PngFolder(SampleFiles):
    """A file per image, or a folder per video with a file per frame."""

    def __init__(self, out: Path, *, num_samples: int, frames_TCHW: tuple[int, int, int, int]) -> None:
        super().__init__(out, num_samples=num_samples, frames_TCHW=frames_TCHW)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"--out {out} is not empty and nothing is overwritten: choose another folder.")
        self._made = not out.exists()
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_writable(out, error) from error
        if not os.access(out, os.W_OK | os.X_OK):
            raise InputError(f"--out {out} cannot be written: no right to; choose another folder.")
        self._target: Path | None = None

    def write(self, frames_BTCHW: Tensor, *, classes: Sequence[str] | None = None) -> None:
        for index, frames_TCHW in enumerate(frames_BTCHW):
            target = self._target = self._next(None if classes is None else classes[index])
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whole or not at all: an interruption leaves no half of a file, and no video without its image.
            part = self.out / f".{target.stem}.part"
            try:
                if len(frames_TCHW) == 1:
                    _save_image(part, frames_TCHW[0])
                    part.replace(target)
                else:
                    part.mkdir()
                    for t, image_CHW in enumerate(frames_TCHW, start=1):
                        _save_image(part / f"{t:0{len(str(len(frames_TCHW)))}d}.png", image_CHW)
                    part.replace(target)
            finally:
                if part.is_dir():
                    shutil.rmtree(part)
                part.unlink(missing_ok=True)
            self._target = None
            self.num_written += 1

    def finish(self) -> None:
        # An interruption may come when a file is there and not yet counted.
        self.num_written += self._target is not None and self._target.exists()
        # Each file was whole when it came; where none did, there is no folder either.
        if self._made and self.num_written == 0:
            shutil.rmtree(self.out)

    def _next(self, name: str | None) -> Path:
        """The file, or a video's folder, that comes next, of a class or of none."""
        digits = max(_DIGITS, len(str(self.num_samples - 1)))
        folder = self.out if name is None else self.out / class_folder(name)
        return folder / f"{self.num_written:0{digits}d}{'.png' if self.frames_TCHW[0] == 1 else ''}"


class _OneFile(SampleFiles):
    """One file, made of all samples at the end; until then they are held as bytes."""

    def __init__(self, out: Path, *, num_samples: int, frames_TCHW: tuple[int, int, int, int]) -> None:
        super().__init__(out, num_samples=num_samples, frames_TCHW=frames_TCHW)
        if out.exists():
            raise InputError(f"--out {out} exists and nothing is overwritten: choose another name.")
        self._part = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
        num_bytes = num_samples * math.prod(frames_TCHW)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()  # told now rather than after an hour
            self._part.unlink()
            free_bytes = shutil.disk_usage(out.parent).free
        except OSError as error:
            raise _not_writable(out, error) from error
        if num_bytes > free_bytes:
            raise InputError(
                f"--out {out}: {num_samples} samples take {num_bytes / 1e9:.1f} GB, but {free_bytes / 1e9:.1f} GB are "
                "free there; lower -n, or choose another place"
            )
        try:
            self._taken_NTCHW = torch.from_numpy(np.empty((num_samples, *frames_TCHW), dtype=np.uint8))
        except MemoryError as error:
            raise InputError(
                f"--out {out}: {num_samples} samples need {num_bytes / 1e9:.1f} GB of memory, which are not "
                "there; lower -n, or take a folder, which is written as the samples come"
            ) from error
        self._num_taken = 0
        self._classes: list[str] = []

    def write(self, frames_BTCHW: Tensor, *, classes: Sequence[str] | None = None) -> None:
        self._classes += classes or ()
        self._taken_NTCHW[self._num_taken : self._num_taken + len(frames_BTCHW)] = frames_BTCHW
        self._num_taken += len(frames_BTCHW)

    def finish(self) -> None:
        if self._num_taken == 0:
            return
        try:
            self._save(self._taken_NTCHW[: self._num_taken], self._part)
            self._part.replace(self.out)
        finally:
            self._part.unlink(missing_ok=True)
        self.num_written = self._num_taken

    @abstractmethod
    def _save(self, frames_NTCHW: Tensor, path: Path) -> None: ...


class ArrayFile(_OneFile):
    """An uncompressed .npz file: `images` (N, H, W, C) or `frames_NTCHW`, and perhaps `labels`, names of classes."""

    def _save(self, frames_NTCHW: Tensor, path: Path) -> None:
        arrays = {"frames_NTCHW": frames_NTCHW.numpy()}
        if frames_NTCHW.shape[1] == 1:
            arrays = {"images": frames_NTCHW[:, 0].permute(0, 2, 3, 1).numpy()}
        if self._classes:
            arrays["labels"] = np.array(self._classes)
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)


class Picture(_OneFile):
    """A grid of images, a row per video, or videos in motion; class by class where classes are told."""

    def _save(self, frames_NTCHW: Tensor, path: Path) -> None:
        frames = to_float(frames_NTCHW)
        if self._classes:
            frames = frames[sorted(range(len(frames)), key=self._classes.__getitem__)]
        num_samples, num_frames = frames.shape[:2]
        scale = max(1, _SHOWN_PX // frames.shape[-1])
        if path.suffix.lower() in ANIMATIONS:
            save_animation(frames, path, scale=scale)
        else:
            columns = num_frames if num_frames > 1 else math.ceil(math.sqrt(num_samples))
            save_png(path, image_grid(frames.flatten(0, 1), columns=columns, scale=scale))


def class_folder(name: str) -> str:
    """The sub-folder of a class: its name, so that what is written can be read as it was; never out of the folder.

    >>> class_folder("brick/hole"), class_folder("../etc"), class_folder("/a")
    ('brick/hole', '_/etc', '_/a')
    """
    if name == NO_CLASS:
        return name
    return "/".join("_" if part in ("..", "/") else part for part in PurePosixPath(name).parts) or "_"


_KINDS: dict[str, type[SampleFiles]] = {".npz": ArrayFile, ".png": Picture, ".gif": Picture, ".webp": Picture}
# Endings that are surely not meant as the name of a folder.
_FOREIGN = (".npy", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".mp4", ".avi", ".zip", ".pt")


def _save_image(path: Path, image_CHW: Tensor) -> None:
    picture_HWC = image_CHW.permute(1, 2, 0).numpy()
    save_png(path, np.ascontiguousarray(picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC))


def _not_writable(out: Path, error: OSError) -> InputError:
    return InputError(f"--out {out} cannot be written: {error.strerror}.")
