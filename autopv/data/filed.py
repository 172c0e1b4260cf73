"""Tensors of images in mapped files, for sets and splits that would not fit in memory."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopv.data.cache import cache_path, is_mapped, map_cached, map_file
from autopv.data.channels import with_channels
from autopv.data.memory import fits_in_memory
from autopv.data.row_file import RowFile
from autopv.errors import DataError

# So many images are worked on at a time where not all are held.
PIECE_IMAGES = 2048


@dataclass(frozen=True)
class FiledTensor:
    """A tensor of bytes in a mapped file: this travels between processes of one machine, the tensor need not."""

    path: Path
    dtype: torch.dtype

    def open(self) -> Tensor:
        """The tensor. Raises: DataError where the file has gone."""
        mapped = map_file(self.path)
        if mapped is None:
            raise DataError(
                f"the images of this run are read from {str(self.path)!r}, but it is no longer there or is damaged; "
                "resume the run, and leave the cache alone while it works"
            )
        return _tensor(mapped, dtype=self.dtype)


def take_rows(images: Tensor, rows_N: Tensor, *, key: str) -> Tensor:
    """Those rows of a uint8 or bool tensor: a copy, or a mapped file under the key where it would not fit in memory.

    key: must be another one whenever the rows would be.
    Raises: DataError where such a file cannot be written.
    """
    return images[rows_N] if fits_in_memory(_num_bytes(images, rows_N)) else file_rows(images, rows_N, key=key).open()


def file_rows(images: Tensor, rows_N: Tensor, *, key: str) -> FiledTensor:
    """Those rows in a mapped file, whether or not they would fit in memory. Raises: DataError where it cannot be."""
    key = hashlib.sha256(f"rows {key}".encode()).hexdigest()
    shape = tuple(images.shape[1:])
    mapped = map_cached(key)
    if mapped is None or mapped.shape != (len(rows_N), *shape):
        with RowFile(key, row_shape=shape) as file:
            for piece_N in torch.split(rows_N, PIECE_IMAGES):
                file.append(images[piece_N].view(torch.uint8).numpy())
            file.finish()
    return FiledTensor(cache_path(key), images.dtype)


def channels_first(pixels_NHWC: NDArray[np.uint8], *, channels: int | None) -> Tensor:
    """Images (N, C, H, W) of so many channels (None: those they have); mapped where they would not fit in memory.

    Raises: DataError where a file that this takes cannot be written.
    """
    count, height, width, own = pixels_NHWC.shape
    wanted = channels or own
    if (is_mapped(pixels_NHWC) and wanted == own) or fits_in_memory(count * height * width * wanted):
        pixels_NCHW = with_channels(pixels_NHWC, channels).transpose(0, 3, 1, 2)
        # Of images that are mapped in this order already no copy is made.
        return torch.from_numpy(np.ascontiguousarray(pixels_NCHW))
    starts = range(0, count, PIECE_IMAGES)
    content = hashlib.sha256(f"channels first {pixels_NHWC.shape} {wanted}".encode())
    for start in starts:
        content.update(np.ascontiguousarray(pixels_NHWC[start : start + PIECE_IMAGES]).data)
    key = content.hexdigest()
    mapped = map_cached(key)
    if mapped is None or mapped.shape != (count, wanted, height, width):
        with RowFile(key, row_shape=(wanted, height, width)) as file:
            for start in starts:
                file.append(with_channels(pixels_NHWC[start : start + PIECE_IMAGES], channels).transpose(0, 3, 1, 2))
            mapped = file.finish()
    return _tensor(mapped, dtype=torch.uint8)


def _num_bytes(images: Tensor, rows_N: Tensor) -> int:
    return len(rows_N) * images[:1].numel()


def _tensor(mapped: NDArray[np.uint8], *, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(mapped).view(dtype)
