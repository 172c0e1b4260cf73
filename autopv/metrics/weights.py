"""Weight files: found, downloaded, and handed over as bytes whose checksum has been seen to be right."""

import fcntl
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from autopv.caching import cache_folder
from autopv.errors import MetricError
from autopv.metrics.private_files import check_private

_TIMEOUT_S = 30.0
_BLOCK_BYTES = 2**20
_PROGRESS_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of weights, which no other content can stand for."""

    file_name: str
    url: str
    size_bytes: int
    sha256: str
    variable: str
    """Environment variable that may name the path of a copy."""

    def __post_init__(self) -> None:
        if self.size_bytes < 1 or len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise MetricError(
                "a weight file needs size_bytes >= 1 and a sha256 of 64 lower-case hexadecimal digits, but got "
                f"{self.size_bytes} and {self.sha256!r}"
            )

    @property
    def cached_path(self) -> Path:
        """Where it is kept once it has been downloaded."""
        return cache_folder() / "weights" / self.file_name


def read_weights(weights: WeightFile, *, download: bool = True) -> bytes:
    """The content: of the copy that the variable names, else of the one in the cache, else downloaded to there.

    Raises: MetricError where there is none, it is not the expected content, or other users could have changed it.
    """
    named = os.environ.get(weights.variable)
    if named:
        path = Path(named)
        if not path.is_file():
            raise MetricError(f"${weights.variable} must name a weight file, but {named!r} is not a file")
        return _read(weights, path, remedy=f"correct ${weights.variable}")
    path = weights.cached_path
    if download:
        _make_private_folder(weights, path.parent)
    if not path.is_file():
        if not download:
            raise MetricError(f"{path} does not exist; {_by_hand(weights)}")
        _download(weights, path)
    return _read(weights, path, remedy="delete it, and it is downloaded again")


def _read(weights: WeightFile, path: Path, *, remedy: str) -> bytes:
    check_private(path)
    size_bytes = path.stat().st_size
    if size_bytes != weights.size_bytes:
        raise MetricError(
            f"{weights.file_name} must have {weights.size_bytes:,} bytes, but {path} has {size_bytes:,}; {remedy}"
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != weights.sha256:
        raise MetricError(f"{weights.file_name} must have sha256 {weights.sha256}, but {path} has {found}; {remedy}")
    return content


def _make_private_folder(weights: WeightFile, folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise MetricError(
            f"weights are kept in {folder}, but it cannot be made: {error}; set $XDG_CACHE_HOME to a folder that can "
            f"be written, or ${weights.variable} to the path of {weights.file_name}"
        ) from error
    check_private(folder)


def _download(weights: WeightFile, path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        # Workers that start together wait for the first of them instead of downloading one file each.
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.is_file():
                return
            resumed = partial.is_file()
            _fetch(weights, partial)
            if resumed and _sha256(partial) != weights.sha256:
                partial.unlink()
                _fetch(weights, partial)
            found = _sha256(partial)
            if found != weights.sha256:
                partial.unlink()
                raise MetricError(
                    f"{weights.file_name} must have sha256 {weights.sha256}, but {weights.url} sent {found}; "
                    "something on the way replaces it. " + _by_hand(weights)
                )
            partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise MetricError(
            f"{weights.file_name} is not in {path.parent} and cannot be downloaded ({error}); {_by_hand(weights)}"
        ) from error


def _fetch(weights: WeightFile, partial: Path) -> None:
    """Completes the partial file; what has come is kept when the connection breaks."""
    done = partial.stat().st_size if partial.is_file() else 0
    if done == weights.size_bytes:
        return
    if done > weights.size_bytes:
        done = 0
    request = urllib.request.Request(weights.url, headers={"Range": f"bytes={done}-"} if done else {})
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        # A server may ignore the range, and send everything.
        resuming = done > 0 and response.status == http.client.PARTIAL_CONTENT
        done = done if resuming else 0
        offered = response.headers.get("Content-Length")
        if offered is not None and done + int(offered) != weights.size_bytes:
            raise MetricError(
                f"{weights.file_name} must have {weights.size_bytes:,} bytes, but {weights.url} offers "
                f"{done + int(offered):,}: this is another file, perhaps a login page. {_by_hand(weights)}"
            )
        with partial.open("ab" if resuming else "wb") as file:
            told = 0.0
            while done < weights.size_bytes and (block := response.read(min(_BLOCK_BYTES, weights.size_bytes - done))):
                file.write(block)
                done += len(block)
                if done / weights.size_bytes >= told:
                    sys.stderr.write(f"downloading {weights.file_name}: {done / weights.size_bytes:.0%}\n")
                    told += _PROGRESS_STEP
    if done < weights.size_bytes:
        raise MetricError(
            f"the connection broke after {done:,} of {weights.size_bytes:,} bytes of {weights.url}; they are kept in "
            f"{partial}: run the command again to go on from there. {_by_hand(weights)}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_hand(weights: WeightFile) -> str:
    return (
        f"get {weights.url} ({weights.size_bytes / 1e6:.0f} MB) on a machine that can, and put it at "
        f"{weights.cached_path}, or set ${weights.variable} to its path"
    )
