"""Image files below a folder, decoded in the order of their names, with their defect masks where it has any."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autopv.data.cache import map_cached, read_cached, write_cached
from autopv.data.decode import DECODER_VERSION, SUFFIXES, BrokenImageError, decode_image
from autopv.data.layout import find_layout
from autopv.data.loaded import Loaded, Skipped
from autopv.data.masks import MASK_VERSION, MaskSizeError, decode_mask
from autopv.data.memory import fits_in_memory
from autopv.data.stores import FiledImages, HeldImages, ImageStore
from autopv.errors import DataError

# Decoding fewer takes less time than a user notices, and leaves nothing behind on the disk.
_CACHE_FROM_IMAGES = 200
# Pillow decodes outside the interpreter lock; beyond this many threads the disk is the limit.
MAX_THREADS = 8
# Decoded at a time; of images that are too many to be held, so many are.
_PIECE_IMAGES = 2048
_MOST_CHANNELS = 3


def load_folder(folder: Path, *, size_px: int) -> Loaded:
    """The readable images at any depth, with the masks and classes that `find_layout` finds.

    Raises: DataError.
    """
    layout = find_layout(find_images(folder), folder=folder)
    loaded = decode_folder(folder, layout.images, size_px=size_px, masks=layout.masks)
    classes = dict(zip(layout.images, layout.classes, strict=True))
    return replace(loaded, classes=tuple(classes[name] for name in loaded.names))


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
    folder: Path,
    names: Sequence[str],
    *,
    size_px: int,
    masks: Sequence[str | None] | None = None,
    square_share: float = 1.0,
) -> Loaded:
    """The readable images of these names; C = 1 if all are grey, else 3. Mapped where they would not fit in memory.

    masks: the name of each image's mask, None for an image without a defect. An image with a broken mask is left out
    like a broken image: where its defects are is not known. square_share: see `decode_image`.
    Raises: DataError when no file can be read, for a mask of another size than its image, and where images that do not
    fit in memory cannot be written to the cache.
    """
    mask_names = [None] * len(names) if masks is None else list(masks)
    is_large = not fits_in_memory(len(names) * size_px**2 * (_MOST_CHANNELS + (masks is not None)))
    without_defect = np.zeros((size_px, size_px), dtype=bool)

    def decode(name: str, mask: str | None) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None] | Skipped:
        return decode_file(folder, name, mask=mask, size_px=size_px, square_share=square_share)

    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads, ExitStack() as stack:
        key = mask_key = None
        if is_large or len(names) >= _CACHE_FROM_IMAGES:
            digests = threads.map(lambda name: _file_digest(folder / name), names)
            key = _content_key(digests, size_px=size_px, square_share=square_share)
            if masks is not None:
                digests = threads.map(lambda mask: b"none" if mask is None else _file_digest(folder / mask), masks)
                mask_key = _mask_key(key, digests)
            cached = _read_cached(key, mask_key=mask_key, names=names, is_large=is_large)
            if cached is not None:
                return cached
        store: ImageStore = HeldImages()
        if is_large:
            assert key is not None
            store = stack.enter_context(FiledImages(key, mask_key=mask_key))
        kept: list[str] = []
        skipped: list[Skipped] = []
        for start in range(0, len(names), _PIECE_IMAGES):
            piece = slice(start, start + _PIECE_IMAGES)
            images, marks = [], []
            for name, decoded in zip(names[piece], threads.map(decode, names[piece], mask_names[piece]), strict=True):
                if isinstance(decoded, Skipped):
                    skipped.append(decoded)
                    continue
                kept.append(name)
                images.append(decoded[0])
                marks.append(without_defect if decoded[1] is None else decoded[1])
            store.append(images, marks if masks is not None else ())
        if not kept:
            first = skipped[0]
            raise DataError(
                f"at least one image must be readable, but none of the {len(skipped)} files below {str(folder)!r} is; "
                f"the first is {first.name!r}: {first.reason}"
            )
        pixels, masks_NHW = store.finish()
    # With a broken file among them nothing that is held is kept, so that it is named with its reason each time; a
    # mapped file that has fewer images than there are names is not taken the next time.
    if key is not None and not skipped and not is_large:
        write_cached(key, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        if mask_key is not None and masks_NHW is not None:
            write_cached(mask_key, masks_NHW.view(np.uint8))
    return Loaded(pixels_NHWC=pixels, names=tuple(kept), masks_NHW=masks_NHW, skipped=tuple(skipped))


def decode_file(
    folder: Path, name: str, *, mask: str | None, size_px: int, square_share: float = 1.0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None] | Skipped:
    """An image and its mask (None without one), or why it is left out. Raises: DataError for a mask of another size."""
    # Masks are cropped to the whole centre square; no set has both.
    assert mask is None or square_share == 1
    try:
        image, stored = decode_image((folder / name).read_bytes(), size_px=size_px, square_share=square_share)
    except (OSError, BrokenImageError) as error:
        return Skipped(name=name, reason=str(error))
    if mask is None:
        return image, None
    try:
        return image, decode_mask((folder / mask).read_bytes(), stored=stored, size_px=size_px)
    except MaskSizeError as error:
        raise DataError(
            f"a mask must have its image's size, but below {str(folder)!r} the mask {mask!r} has {error.mask_size} "
            f"pixels and the image {name!r} {error.image_size}; export the mask at the image's size"
        ) from error
    except (OSError, BrokenImageError) as error:
        return Skipped(name=name, reason=f"its mask {mask}: {error}")


def _read_cached(key: str, *, mask_key: str | None, names: Sequence[str], is_large: bool) -> Loaded | None:
    read = map_cached if is_large else read_cached
    pixels_NCHW, masks_NHW = read(key), None if mask_key is None else read(mask_key)
    if pixels_NCHW is None or len(pixels_NCHW) != len(names) or pixels_NCHW.ndim != 4:
        return None
    pixels_NHWC = pixels_NCHW.transpose(0, 2, 3, 1)
    if mask_key is None:
        return Loaded(pixels_NHWC=pixels_NHWC, names=tuple(names))
    if masks_NHW is None or masks_NHW.shape != pixels_NHWC.shape[:3]:
        return None
    return Loaded(pixels_NHWC=pixels_NHWC, names=tuple(names), masks_NHW=masks_NHW.view(np.bool_))


def _refuse_folder(error: OSError) -> None:
    # A folder passed over in silence would be images missing from a result.
    raise DataError(f"every folder of the data must be readable, but {error.filename!r} is not: {error.strerror}")


def _file_digest(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return b"unreadable"  # decoding tells why, and what has a broken file is never cached


def _content_key(digests: Iterable[bytes], *, size_px: int, square_share: float) -> str:
    import PIL

    # Another Pillow may decode or filter differently.
    made = f"decoder {DECODER_VERSION}, Pillow {PIL.__version__}, {size_px} px, square {square_share!r}, channels first"
    key = hashlib.sha256(made.encode())
    for digest in digests:
        key.update(digest)
    return key.hexdigest()


def _mask_key(key: str, digests: Iterable[bytes]) -> str:
    # A mask is turned and cropped as its image is, so the images' key is part of this one.
    mask_key = hashlib.sha256(f"masks {MASK_VERSION} of {key}".encode())
    for digest in digests:
        mask_key.update(digest)
    return mask_key.hexdigest()
