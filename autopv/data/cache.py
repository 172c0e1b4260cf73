"""Decoded images kept in the user's cache folder: read whole, or mapped where they are too many to be held."""

import mmap
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopv.caching import cache_folder

# Private and writable, as torch warns about memory that may not be written to. Nothing is ever written, so no memory
# has to be set aside for it (which would be refused for a file larger than the machine's memory).
_MAP_FLAGS = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)


def read_cached(key: str) -> NDArray[np.uint8] | None:
    """The array kept under the key, or None where there is none (or a damaged one)."""
    try:
        with cache_path(key).open("rb") as file:
            pixels = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return pixels if isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 else None


def map_cached(key: str) -> NDArray[np.uint8] | None:
    """The same array without holding it: the system reads what is touched, and lets go of it when memory is short.

    Writing to it changes this process's pages alone, never the file.
    """
    return map_file(cache_path(key))


def map_file(path: Path) -> NDArray[np.uint8] | None:
    """The array in an .npy file, mapped; None where there is none, or one that is not uint8 or is cut short."""
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            if is_fortran or dtype != np.uint8:
                return None
            mapping = mmap.mmap(file.fileno(), 0, flags=_MAP_FLAGS, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            return np.ndarray(shape, np.uint8, buffer=mapping, offset=file.tell())
    except (OSError, ValueError, EOFError, TypeError):
        return None


def is_mapped(pixels: NDArray[np.generic]) -> bool:
    """Whether an array is read from a file where it is touched."""
    base: object = pixels
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)


def write_cached(key: str, pixels: NDArray[np.uint8]) -> bool:
    """True when the array is now kept under the key; False where the folder cannot be written.

    The file appears whole or not at all: of two processes that write the same key, the later replaces equal content.
    """
    path = cache_path(key)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:16]}-", suffix=".partial")
        with os.fdopen(descriptor, "wb") as file:
            np.save(file, pixels, allow_pickle=False)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True


def cache_path(key: str) -> Path:
    """Where the entry of a key lies, if there is one."""
    return cache_folder() / "images" / f"{key}.npy"
