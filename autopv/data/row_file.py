"""An array of the cache that is written row by row and then mapped, for images that are too many to be held."""

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from autopv.data.cache import cache_path, map_cached
from autopv.errors import DataError

_COPIED_ROWS = 4096


class RowFile:
    """An entry of the cache that is written row by row, and mapped when it is finished: it is never held.

    A context; what is not finished when it ends leaves nothing behind. Like other entries it appears whole or not at
    all. Each method raises DataError where the cache folder cannot be written.
    """

    def __init__(self, key: str, *, row_shape: tuple[int, ...]) -> None:
        self.row_shape = row_shape
        self.num_rows = 0
        self._key = key
        self._path = cache_path(key)
        with self._telling():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(
                dir=self._path.parent, prefix=f".{self._path.stem[:16]}-", suffix=".partial"
            )
        self._partial: Path | None = Path(name)
        self._file = os.fdopen(descriptor, "w+b")
        with self._telling():
            self._file.write(self._header())

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # of a full disk it was told already
            self._file.close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)
            self._partial = None

    def append(self, rows: NDArray[np.uint8]) -> None:
        """Writes rows (n, *row_shape)."""
        assert rows.dtype == np.uint8
        assert rows.shape[1:] == self.row_shape
        with self._telling():
            self._file.write(np.ascontiguousarray(rows).data)
        self.num_rows += len(rows)

    def copies(self) -> Iterator[NDArray[np.uint8]]:
        """What was written so far, some rows at a time."""
        self._file.flush()
        assert self._partial is not None
        if self.num_rows:
            shape = (self.num_rows, *self.row_shape)
            written = np.memmap(self._partial, dtype=np.uint8, mode="r", offset=len(self._header()), shape=shape)
            for start in range(0, self.num_rows, _COPIED_ROWS):
                yield np.array(written[start : start + _COPIED_ROWS])

    def finish(self) -> NDArray[np.uint8]:
        """All rows, mapped; they are now kept under the key."""
        assert self._partial is not None
        assert self.num_rows
        with self._telling():
            self._file.seek(0)
            self._file.write(self._header())
            self._file.close()
            os.replace(self._partial, self._path)
        self._partial = None
        mapped = map_cached(self._key)
        if mapped is None:
            raise DataError(f"{str(self._path)!r} was removed or changed while it was used; run again")
        return mapped

    def _header(self) -> bytes:
        # NumPy leaves room in it for a growing first axis, so it keeps its length.
        described = {"descr": "|u1", "fortran_order": False, "shape": (self.num_rows, *self.row_shape)}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, described)
        return header.getvalue()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                "images that are too many to be held in memory are kept in a file of the cache, but writing to "
                f"{str(self._path.parent)!r} failed: {error.strerror or error}; free some disk, let XDG_CACHE_HOME "
                "name a folder with room, or take the images at a smaller size"
            ) from error
