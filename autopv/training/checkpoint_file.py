"""One safetensors file whose header holds JSON: replaced by one atomic rename, or left as it was."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autopv.errors import CheckpointError, StorageError

FILE_NAME = "checkpoint.safetensors"
# The only key of the file's header: safetensors headers map strings to strings.
_HEADER_KEY = "autopv"
# Half-made files, ours and those that safetensors renames to ours, which only a killed process leaves behind.
_PARTS = (f".{FILE_NAME}.*.part", ".tmp??????")
Header = TypeVar("Header")


def write_file(folder: Path, tensors: Mapping[str, Tensor], *, header: str) -> Path:
    """The file in `folder` that now holds them; what stood there is replaced only once the new one is whole.

    Raises:
        StorageError: it could not be written (a full disk, no permission); what stood there still does.
    """
    path = folder / FILE_NAME
    # The process's number: two writers of one folder must not write into each other's half-made file.
    part = folder / f".{FILE_NAME}.{os.getpid()}.part"
    on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            part.touch()
            mode = part.stat().st_mode
            save_file(on_cpu, part, metadata={_HEADER_KEY: header})
            # safetensors makes files that their owner alone may read; these are as readable as any other file.
            part.chmod(mode)
            _sync(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        needed = sum(tensor.nbytes for tensor in on_cpu.values()) + len(header)
        raise StorageError(
            f"{path} could not be written ({error}): it needs {_megabytes(needed)}, and {free_text(folder)}"
        ) from error
    return path


def read_file(
    path: Path, *, parse: Callable[[str | None], Header], part: tuple[str, ...]
) -> tuple[Header, dict[str, Tensor]]:
    """What `parse` makes of the header (None if it is none of ours), and the tensors whose names begin so.

    The header comes first: in a format that `parse` refuses, the same names may mean something else.

    Raises:
        CheckpointError: no file, or one that is truncated or damaged.
    """
    if not path.is_file():
        raise CheckpointError(f"a checkpoint folder holds {FILE_NAME}, but {path} does not exist: is the path right?")
    try:
        with safe_open(path, framework="pt") as file:
            header = parse((file.metadata() or {}).get(_HEADER_KEY))
            names = [name for name in file.keys() if name.startswith(part)] if part else []  # noqa: SIM118
            return header, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}): it is truncated or damaged; use another, or train anew"
        ) from error


def remove_parts(folder: Path) -> None:
    """Nothing; the half-made files that a killed process left in `folder` are gone."""
    for pattern in _PARTS:
        for part in folder.glob(pattern):
            part.unlink(missing_ok=True)


def free_text(folder: Path) -> str:
    """What the disk has left, in words."""
    try:
        return f"{_megabytes(shutil.disk_usage(folder).free)} are free there"
    except OSError:
        return "how much is free there cannot be told"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def _sync(path: Path) -> None:
    """Nothing; what was written under this name (a file, or a folder's list of names) has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
