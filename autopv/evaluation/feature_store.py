"""Features of every image of a source, computed once: kept in shards, so that interrupted work goes on where it was."""

import hashlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import PIL
import torch
from torch import Tensor

from autopv.caching import cache_folder
from autopv.data.decode import DECODER_VERSION
from autopv.data.images import list_skipped
from autopv.data.loaded import Skipped
from autopv.data.masks import MASK_VERSION
from autopv.data.tensors import to_float
from autopv.errors import DataError, MetricError
from autopv.evaluation.feature_set import FeatureIdentity, FeatureSet
from autopv.evaluation.feature_shards import PARTIAL_SUFFIX, PIXEL_DIGEST_BYTES, SUFFIX, Shard, ShardFile
from autopv.evaluation.image_source import MIN_IMAGES, ImageSource, SourceChangedError
from autopv.metrics.features import Extractor

__all__ = ["FeatureIdentity", "FeatureSet", "default_cache", "extract", "trim_cache"]

# Raise when what a shard holds changes its meaning.
_FORMAT = 1
SHARD_IMAGES = 256
# Held at once, as floats; a divisor of a shard's.
_READ_IMAGES = 64
# Half a million images' Inception features.
MAX_CACHE_BYTES = 4 * 2**30
# Shards used within a day may belong to an evaluation that is still running.
_SPARED_S = 24 * 3600

Progress = Callable[[int, int], None]


def default_cache() -> Path:
    """Where features are kept unless told otherwise."""
    return cache_folder() / "features"


def extract(
    source: ImageSource,
    extractor: Extractor,
    *,
    size_px: int,
    cache: Path | None,
    on_progress: Progress | None = None,
    strict: bool = False,
    device: torch.device | str = "cpu",
) -> FeatureSet:
    """The features of the source's readable images, each read at size_px in colour (grey is repeated).

    A set keeps no images in memory. Shards of the same images, extractor, sizes and versions of the libraries are
    taken from the cache, and those that are computed are kept there; a damaged one is computed anew.
    cache: a folder, or None for a temporary one that lives as long as the set; the latter is also used where the
    folder cannot be written.
    on_progress: told (images done, images in all) after each batch.
    strict: a broken image is an error; else it is left out and listed in `skipped`.
    Raises: SourceChangedError for images that change meanwhile (what was computed from them is then not kept);
    DataError for too few readable ones, or a disk that is full; MetricError for features that are not finite.
    """
    device = torch.device(device)
    folder, is_temporary = _shard_folder(cache)
    try:
        feature_set = _extract(
            source,
            extractor,
            identity=FeatureIdentity.of(extractor, size_px=size_px, device=device),
            folder=folder,
            on_progress=on_progress or (lambda _done, _total: None),
            strict=strict,
            device=device,
        )
    except BaseException:
        if is_temporary:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if is_temporary:
        weakref.finalize(feature_set, shutil.rmtree, folder, ignore_errors=True)
    else:
        trim_cache(folder)
    return feature_set


def trim_cache(folder: Path, *, limit_bytes: int = MAX_CACHE_BYTES) -> int:
    """How many bytes were freed: of the shards that no evaluation used within a day, the longest unused go first.

    Goes on until the rest is within the limit, and removes what killed processes left half-written.
    """
    entries = []
    for path in folder.iterdir():
        # Another process may be trimming too.
        with suppress(FileNotFoundError):
            if path.name.endswith((SUFFIX, PARTIAL_SUFFIX)):
                found = path.stat()
                entries.append((found.st_mtime, found.st_size, path))
    total, freed = sum(size for _, size, _ in entries), 0
    before_s = time.time() - _SPARED_S
    for used_s, size, path in sorted(entries):
        if used_s < before_s and (path.name.endswith(PARTIAL_SUFFIX) or total - freed > limit_bytes):
            path.unlink(missing_ok=True)
            freed += size
    return freed


def _shard_folder(cache: Path | None) -> tuple[Path, bool]:
    """A folder that can be written, and whether it is a temporary one."""
    if cache is not None:
        with suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK | os.X_OK):
                return cache, False
    return Path(tempfile.mkdtemp(prefix="autopv-features-")), True


def _extract(
    source: ImageSource,
    extractor: Extractor,
    *,
    identity: FeatureIdentity,
    folder: Path,
    on_progress: Progress,
    strict: bool,
    device: torch.device,
) -> FeatureSet:
    files: list[ShardFile] = []
    computed: list[ShardFile] = []
    sizes: list[int] = []
    indices: list[int] = []
    pixel_digests: list[bytes] = []
    skipped: list[Skipped] = []
    try:
        for start in range(0, len(source), SHARD_IMAGES):
            stop = min(start + SHARD_IMAGES, len(source))
            file = ShardFile(folder, _shard_identity(identity, fingerprint=source.fingerprint(start, stop)))
            shard = file.read()
            if shard is None or not _still_skipped(source, shard, start=start, stop=stop, size_px=identity.size_px):
                shard = _compute(
                    source,
                    extractor,
                    start=start,
                    stop=stop,
                    size_px=identity.size_px,
                    device=device,
                    on_progress=on_progress,
                )
                _check_stretch(source, file, start=start)
                file.write(shard)
                computed.append(file)
            else:
                _mark_used(file.path)
                on_progress(stop, len(source))
            files.append(file)
            sizes.append(len(shard.offsets))
            indices += [start + offset for offset in shard.offsets]
            pixel_digests += shard.pixel_digests
            skipped += shard.skipped
            if strict and skipped:
                raise DataError(
                    f"with strict every image must be readable, but {len(skipped)} of the first {stop} of "
                    f"{source.label!r} are broken: {list_skipped(skipped)}; repair or remove them, or go without "
                    "strict to leave them out"
                )
        source.check_unchanged()
        for place, file in enumerate(files):
            _check_stretch(source, file, start=place * SHARD_IMAGES)
    except SourceChangedError:
        # What else changed unnoticed cannot be known, so that none of it is trusted.
        for file in computed:
            file.path.unlink(missing_ok=True)
        raise
    if len(indices) < MIN_IMAGES:
        raise DataError(
            f"a set to evaluate needs at least {MIN_IMAGES} readable images, but {source.label!r} has {len(indices)}; "
            f"left out: {list_skipped(skipped)}"
        )
    return FeatureSet(
        label=source.label,
        identity=identity,
        num_features=extractor.num_features,
        names=tuple(source.names[index] for index in indices),
        classes=None if source.classes is None else tuple(source.classes[index] for index in indices),
        indices=tuple(indices),
        pixel_digests=tuple(pixel_digests),
        skipped=tuple(skipped),
        files=tuple(files),
        file_sizes=tuple(sizes),
    )


def _shard_identity(identity: FeatureIdentity, *, fingerprint: str) -> dict[str, str | int]:
    # Another Pillow may decode or filter differently, another torch may round differently.
    decoding = f"decoder {DECODER_VERSION}, masks {MASK_VERSION}, Pillow {PIL.__version__}"
    return {
        "format": _FORMAT,
        **identity.to_dict(),
        "source": fingerprint,
        "decoding": decoding,
        "torch": torch.__version__,
    }


def _compute(
    source: ImageSource,
    extractor: Extractor,
    *,
    start: int,
    stop: int,
    size_px: int,
    device: torch.device,
    on_progress: Progress,
) -> Shard:
    """The shard of images start..stop."""
    features = [torch.zeros(0, extractor.num_features)]
    offsets: list[int] = []
    pixel_digests: list[bytes] = []
    skipped: list[Skipped] = []
    for first in range(start, stop, _READ_IMAGES):
        last = min(first + _READ_IMAGES, stop)
        chunk = source.read(first, last, size_px=size_px, channels=3)
        if chunk.indices:
            try:
                features.append(extractor.features(to_float(chunk.images_NCHW.to(device))))
            except MetricError as error:
                place = f"images {source.names[first]!r} to {source.names[last - 1]!r} of {source.label!r}"
                raise MetricError(f"{error} (with {place})") from error
        offsets += [index - start for index in chunk.indices]
        pixel_digests += [_pixel_digest(image) for image in chunk.images_NCHW]
        skipped += chunk.skipped
        on_progress(last, len(source))
    return Shard(
        features_ND=torch.cat(features),
        pixel_digests=tuple(pixel_digests),
        offsets=tuple(offsets),
        skipped=tuple(skipped),
    )


def _pixel_digest(image_CHW: Tensor) -> bytes:
    return hashlib.sha256(image_CHW.numpy().tobytes()).digest()[:PIXEL_DIGEST_BYTES]


def _check_stretch(source: ImageSource, file: ShardFile, *, start: int) -> None:
    """Nothing, while the images of a shard are those it was made for; else raises SourceChangedError."""
    stop = min(start + SHARD_IMAGES, len(source))
    if source.fingerprint(start, stop) != file.identity["source"]:
        raise SourceChangedError(
            f"images must not change while they are read, but some of {source.names[start]!r} to "
            f"{source.names[stop - 1]!r} of {source.label!r} did; run again when nothing writes there"
        )


def _still_skipped(source: ImageSource, shard: Shard, *, start: int, stop: int, size_px: int) -> bool:
    """Whether what a shard left out still cannot be read: not every failure is the file's, as on a network's disk."""
    left_out = set(range(start, stop)) - {start + offset for offset in shard.offsets}
    return all(source.read(index, index + 1, size_px=size_px, channels=3).skipped for index in left_out)


def _mark_used(path: Path) -> None:
    # Of another user's shard, or one that was just removed, only the place in the order is lost.
    with suppress(OSError):
        os.utime(path)
