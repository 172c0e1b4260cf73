"""torchvision's download of a standard set, whose failures are one sentence."""

import http.client
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# torchvision waits for ever for a server that does not answer.
_TIMEOUT_S = 30.0
# What its downloads and unpacking raise: RuntimeError for a wrong md5, a failed mirror or a missing gdown.
_FAILURES = (
    RuntimeError,
    OSError,
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def download(reader: Any, folder: Path) -> str | None:
    """None when the set that a class of torchvision.datasets reads is now below the folder, else why it is not.

    An archive that lies there already is unpacked. What a failed download leaves serves the next one, save for empty
    folders, which are removed.
    """
    failures: tuple[type[Exception], ...] = (*_FAILURES, *_gdown_failures())
    try:
        with _timeout():
            reader(root=str(folder), download=True)
    except failures as error:
        _remove_empty(folder)
        return " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return None


def _gdown_failures() -> tuple[type[Exception], ...]:
    """What gdown raises besides, which torchvision fetches CelebA with where it is installed."""
    try:
        import gdown.exceptions
    except ImportError:
        return ()
    # The first is new in version 6, where it is the base of the second.
    names = ("DownloadError", "FileURLRetrievalError")
    found: list[type[Exception]] = [
        getattr(gdown.exceptions, name) for name in names if hasattr(gdown.exceptions, name)
    ]
    return tuple(found)


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _remove_empty(folder: Path) -> None:
    places = sorted((place for place in folder.rglob("*") if place.is_dir()), reverse=True)
    for place in (*places, folder):
        with suppress(OSError):  # one that holds something stays
            place.rmdir()
