"""A full disk, told as one error that names the file, what is free, and how to go on."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autopv.errors import AutopvError, StorageError
from autopv.search.run_folder import RunFolder
from autopv.training.checkpoint_file import free_text

_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# What SQLite says of a disk that is full, of one that fails, and of a file it may no longer write.
_SQLITE_MESSAGES = ("disk is full", "disk I/O error", "readonly database")


@contextmanager
def storage_errors(folder: RunFolder) -> Iterator[None]:
    """A block in which whatever says that the disk is full (or fails) becomes a StorageError that says how to go on.

    Raises:
        StorageError: in place of an OSError, or an error of SQLite, Optuna or Ray that came of one.
    """
    try:
        yield
    except StorageError as error:
        raise _with_remedy(str(error), folder=folder) from error
    except Exception as error:
        reason = storage_reason(error)
        if reason is None or isinstance(error, AutopvError):
            raise
        raise _with_remedy(f"{reason}; {free_text(folder.path)}", folder=folder) from error


def storage_error(error: OSError, *, path: Path) -> StorageError:
    """What a worker says of a file that it could not write."""
    return StorageError(f"{error.filename or path} could not be written ({error.strerror}): {free_text(path)}")


def is_storage_error(error: OSError) -> bool:
    """Whether an error is the disk's and will be met again."""
    return error.errno in _ERRNOS


def storage_reason(error: BaseException) -> str | None:
    """What could not be written, by this error or one that it came of; None if the disk has no part in it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, OSError) and is_storage_error(cause):
            return f"{cause.filename or 'a file of this run'} could not be written ({cause.strerror})"
        if isinstance(cause, sqlite3.Error) and any(text in str(cause) for text in _SQLITE_MESSAGES):
            return f"the databases of this run could not be written ({cause})"
        cause = cause.__cause__ or cause.__context__
    return None


def _with_remedy(message: str, *, folder: RunFolder) -> StorageError:
    remedy = f"What finished is kept; make room, then go on by `autopv resume {folder.path}`."
    return StorageError(message if remedy in message else f"{message.rstrip('.')}. {remedy}")
