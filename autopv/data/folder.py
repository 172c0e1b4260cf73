"""Image files below a folder, decoded in the order of their names."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopv.data.cache import read_cached, write_cached
from autopv.data.decode import DECODER_VERSION, SUFFIXES, BrokenImageError, decode_image
from autopv.errors import DataError

# Decoding fewer takes less time than a user notices, and leaves nothing behind on the disk.
_CACHE_FROM_IMAGES = 200
# Pillow decodes outside the interpreter lock; beyond this many threads the disk is the limit.
_MAX_THREADS = 8


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str


def find_images(folder: Path) -> tuple[str, ...]:
    """Names (relative, with forward slashes, sorted) of the image files at any depth; hidden ones are left out.

    Raises: DataError for a folder without images, telling what it holds.
    """
    names: list[str] = []
    others: dict[str, int] = {}
    visited: set[str] = set()
    # Links to folders are followed, since large data sets are often linked in; each once, since links can form loops.
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_folder):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES:
                names.append((Path(place) / name).relative_to(folder).as_posix())
            else:
                others[suffix or "no suffix"] = others.get(suffix or "no suffix", 0) + 1
    if not names:
        held = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(others.items())[:8]) or "no files at all"
        raise DataError(
            f"a data folder must hold images ({', '.join(suffix[1:] for suffix in SUFFIXES)}) at any depth, "
            f"but {str(folder)!r} holds {held}"
        )
    return tuple(sorted(names))


def decode_folder(
    folder: Path, names: Sequence[str], *, size_px: int
) -> tuple[NDArray[np.uint8], tuple[str, ...], tuple[Skipped, ...]]:
    """Images (N, size_px, size_px, C) with C = 1 if all are grey, else 3; the names of those; and the broken files.

    Raises: DataError when no file can be read.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        key = None
        if len(names) >= _CACHE_FROM_IMAGES:
            key = _content_key(threads.map(lambda name: _file_digest(folder / name), names), size_px=size_px)
            pixels = read_cached(key)
            if pixels is not None and len(pixels) == len(names):
                return pixels, tuple(names), ()
        decoded = list(threads.map(lambda name: _decode_file(folder / name, name, size_px=size_px), names))
    kept = [(name, image) for name, image in zip(names, decoded, strict=True) if not isinstance(image, Skipped)]
    skipped = tuple(image for image in decoded if isinstance(image, Skipped))
    if not kept:
        first = skipped[0]
        raise DataError(
            f"at least one image must be readable, but none of the {len(skipped)} files below {str(folder)!r} is; "
            f"the first is {first.name!r}: {first.reason}"
        )
    pixels = stack_images([image for _, image in kept])
    # With a broken file among them nothing is kept, so that it is named with its reason each time.
    if key is not None and not skipped:
        write_cached(key, pixels)
    return pixels, tuple(name for name, _ in kept), skipped


def stack_images(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Grey (S, S) and colour (S, S, 3) images as one array (N, S, S, C): C = 1 if all are grey, else 3."""
    if all(image.ndim == 2 for image in images):
        return np.stack(images)[..., None]
    return np.stack([image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images])


def _refuse_folder(error: OSError) -> None:
    # A folder passed over in silence would be images missing from a result.
    raise DataError(f"every folder of the data must be readable, but {error.filename!r} is not: {error.strerror}")


def _decode_file(path: Path, name: str, *, size_px: int) -> NDArray[np.uint8] | Skipped:
    try:
        return decode_image(path.read_bytes(), size_px=size_px)
    except (OSError, BrokenImageError) as error:
        return Skipped(name=name, reason=str(error))


def _file_digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b"unreadable"  # decoding tells why, and what has a broken file is never cached


def _content_key(digests: Iterable[bytes], *, size_px: int) -> str:
    import PIL

    # Another Pillow may decode or filter differently.
    key = hashlib.sha256(f"decoder {DECODER_VERSION}, Pillow {PIL.__version__}, {size_px} px".encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()
