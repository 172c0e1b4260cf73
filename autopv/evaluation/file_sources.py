"""Images of a folder, decoded when they are asked for; of an array file, a demo or a standard set."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import torch

from autopv.data.arrays import StoredArray, read_array
from autopv.data.decode import BrokenImageError, reading
from autopv.data.demos import demo_files, demo_side_px, load_demo
from autopv.data.folder import MAX_THREADS, decode_file, find_images
from autopv.data.layout import find_layout
from autopv.data.loaded import Loaded, Skipped
from autopv.data.standard import StandardSet
from autopv.data.standard_images import StandardFiles, StandardImages, open_standard
from autopv.evaluation.image_source import Decoded, ImageSource, SourceChangedError, TensorSource

# What `find_layout` calls the class of images that lie in no sub-folder.
_NO_CLASS = "."


class FolderSource(ImageSource):
    """Image files below a folder. Nothing is held but their names.

    names: of the images. masks: the name of each image's mask, None for an image without a defect; None altogether
    for a folder without masks. listed: every image file that lay there, to be compared later; None if that is no
    matter. square_share: of the shorter side that the centre square takes, as in `decode_image`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        label: str,
        names: Sequence[str],
        classes: Sequence[str] | None = None,
        masks: Sequence[str | None] | None = None,
        listed: Sequence[str] | None = None,
        kind: str = "folder",
        square_share: float = 1.0,
    ) -> None:
        super().__init__(label, kind=kind, names=names, classes=classes, has_masks=masks is not None)
        self._folder = folder
        self._square_share = square_share
        self._masks = [None] * len(names) if masks is None else list(masks)
        self._listed = listed

    @classmethod
    def open(cls, folder: Path, *, label: str) -> "FolderSource":
        """The images at any depth, with the masks and classes that `find_layout` finds.

        Raises: DataError for a folder without images, and for masks that do not fit them.
        """
        listed = find_images(folder)
        layout = find_layout(listed, folder=folder)
        classes = None if set(layout.classes) == {_NO_CLASS} else layout.classes
        return cls(folder, label=label, names=layout.images, classes=classes, masks=layout.masks, listed=listed)

    @cached_property
    def side_px(self) -> int | None:
        with ThreadPoolExecutor(_num_threads()) as threads:
            sides = set(threads.map(self._side_px, self.names)) - {None}
        return sides.pop() if len(sides) == 1 else None

    def fingerprint(self, start: int, stop: int) -> str:
        content = hashlib.sha256(os.fsencode(self._folder.resolve()))
        if self._square_share != 1:
            content.update(f"\0square {self._square_share!r}".encode())
        for name, mask in zip(self.names[start:stop], self._masks[start:stop], strict=True):
            for file in (name, mask):
                content.update(b"\0none" if file is None else os.fsencode(f"\0{file}\0{_state(self._folder / file)}"))
        return content.hexdigest()

    def check_unchanged(self) -> None:
        if self._listed is None:
            return
        found = find_images(self._folder)
        differing = sorted(set(found) ^ set(self._listed))
        if differing:
            raise SourceChangedError(
                f"a folder must not change while it is read, but {len(differing)} files of {self.label!r} came or "
                f"went, such as {differing[0]!r}; run again when nothing writes there"
            )

    def _decode(self, start: int, stop: int, *, size_px: int) -> Sequence[Decoded]:
        def decode(index: int) -> Decoded:
            return decode_file(
                self._folder,
                self.names[index],
                mask=self._masks[index],
                size_px=size_px,
                square_share=self._square_share,
            )

        with ThreadPoolExecutor(_num_threads()) as threads:
            return list(threads.map(decode, range(start, stop)))

    def _side_px(self, name: str) -> int | None:
        from PIL import Image

        try:
            # Only the header is read. A turn (EXIF) may swap the sides, but not which is the shorter.
            with reading(), Image.open(self._folder / name) as image:
                return round(self._square_share * min(image.size))
        except (OSError, BrokenImageError):
            return None  # told with its reason when the images are read


def open_array(path: Path, *, label: str) -> TensorSource:
    """The images of an .npy or .npz file at their own size, with its labels and masks; all of it is held in memory."""
    return _held(read_array(path), label=label, kind="array")


def open_demo(name: str) -> ImageSource:
    """A named demo set: its package's files where it has any, else painted at its own size."""
    files = demo_files(name)
    if files is not None:
        folder, classes = files
        names = sorted(classes)
        return FolderSource(folder, label=name, names=names, classes=[classes[one] for one in names], kind="demo")
    return _held(load_demo(name, size_px=demo_side_px(name)), label=name, kind="demo")


class _BorderedSource(TensorSource):
    """Images whose border is left away where they are asked for at the size they have without it."""

    def __init__(self, images: StandardImages, *, label: str) -> None:
        bordered_NCHW = torch.from_numpy(images.with_border()).permute(0, 3, 1, 2)
        super().__init__(bordered_NCHW, label=label, names=images.names, classes=images.classes, kind="standard")
        self._border_px = images.border_px

    def _decode(self, start: int, stop: int, *, size_px: int) -> Sequence[Decoded]:
        border = self._border_px
        if border == 0 or size_px != self.side_px - 2 * border:
            return super()._decode(start, stop, size_px=size_px)
        # At the size it has, an image comes back as it is.
        whole = super()._decode(start, stop, size_px=self.side_px)
        return [one if isinstance(one, Skipped) else (one[0][border:-border, border:-border], one[1]) for one in whole]


def open_standard_set(chosen: StandardSet, *, label: str) -> ImageSource:
    """The training images of a standard set, as `load_standard` crops and pads them.

    Raises: DataError where the set is missing, damaged, or cannot be downloaded.
    """
    opened = open_standard(chosen)
    if isinstance(opened, StandardFiles):
        share = opened.square_share
        return FolderSource(opened.folder, label=label, names=opened.names, kind="standard", square_share=share)
    return _BorderedSource(opened, label=label)


def _held(loaded: Loaded | StoredArray, *, label: str, kind: str) -> TensorSource:
    return TensorSource(
        torch.from_numpy(loaded.pixels_NHWC).permute(0, 3, 1, 2),
        label=label,
        names=loaded.names,
        classes=loaded.classes,
        masks_NHW=None if loaded.masks_NHW is None else torch.from_numpy(loaded.masks_NHW),
        kind=kind,
    )


def _state(path: Path) -> str:
    """Size and times of a file, without reading it."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    # The time of the last change of status cannot be set by copying tools: an exchanged file of equal size and equal,
    # restored modification time is noticed too.
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _num_threads() -> int:
    return min(MAX_THREADS, os.cpu_count() or 1)
