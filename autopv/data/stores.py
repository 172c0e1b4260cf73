"""Images that come one after the other, brought together: held, or in a mapped file where they are too many."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from autopv.data.channels import stack_images
from autopv.data.row_file import RowFile


class ImageStore(Protocol):
    """Takes images (S, S) or (S, S, 3) and, of data with masks, the mask (S, S) of each."""

    def append(self, images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.bool_]]) -> None:
        """Adds some images; masks are none, or one for each."""

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """All of them as (N, S, S, C), C = 1 if all are grey, else 3; and their masks (N, S, S), None without any."""


class HeldImages:
    """A store in memory."""

    def __init__(self) -> None:
        self._images: list[NDArray[np.uint8]] = []
        self._masks: list[NDArray[np.bool_]] = []

    def append(self, images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.bool_]]) -> None:
        self._images += images
        self._masks += masks

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        return stack_images(self._images), np.stack(self._masks) if self._masks else None


class FiledImages:
    """A store in the cache, under a key for the images and one for the masks; what it gives is mapped."""

    def __init__(self, key: str, *, mask_key: str | None) -> None:
        self._key, self._mask_key = key, mask_key
        self._images: RowFile | None = None
        self._masks: RowFile | None = None

    def __enter__(self) -> "FiledImages":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._images, self._masks):
            if file is not None:
                file.__exit__(None, None, None)

    def append(self, images: Sequence[NDArray[np.uint8]], masks: Sequence[NDArray[np.bool_]]) -> None:
        if not images:
            return
        rows_NCHW = stack_images(images).transpose(0, 3, 1, 2)
        if self._images is None:
            self._images = RowFile(self._key, row_shape=rows_NCHW.shape[1:])
        elif rows_NCHW.shape[1] > self._images.row_shape[0]:
            self._widen(rows_NCHW.shape[1:])
        self._images.append(np.broadcast_to(rows_NCHW, (len(images), *self._images.row_shape)))
        if masks:
            if self._masks is None:
                assert self._mask_key is not None
                self._masks = RowFile(self._mask_key, row_shape=masks[0].shape)
            self._masks.append(np.stack(masks).view(np.uint8))

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        assert self._images is not None
        masks_NHW = None if self._masks is None else self._masks.finish().view(np.bool_)
        return self._images.finish().transpose(0, 2, 3, 1), masks_NHW

    def _widen(self, row_shape: tuple[int, ...]) -> None:
        """What was grey so far becomes colour, as the first colour image has come."""
        grey = self._images
        assert grey is not None
        self._images = RowFile(self._key, row_shape=row_shape)
        for rows in grey.copies():
            self._images.append(np.broadcast_to(rows, (len(rows), *row_shape)))
        grey.__exit__(None, None, None)
