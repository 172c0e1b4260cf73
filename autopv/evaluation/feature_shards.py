"""Features of a stretch of images in one file, which is whole, says what it holds, or counts as none."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autopv.data.loaded import Skipped
from autopv.errors import DataError

SUFFIX = ".safetensors"
PARTIAL_SUFFIX = ".partial"
# Of a SHA-256: a billion images share none by chance.
PIXEL_DIGEST_BYTES = 16
_FEATURES, _DIGESTS, _OFFSETS = "features", "pixel_digests", "offsets"
# One key, since the order of several would vary from file to file.
_HEADER_KEY = "autopv-features"


@dataclass(frozen=True, eq=False, kw_only=True)
class Shard:
    """Features (n, D), with the digest of the pixels and the place in the stretch of each of the n images."""

    features_ND: Tensor
    pixel_digests: tuple[bytes, ...]
    offsets: tuple[int, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, eq=False)
class ShardFile:
    """Where the shard of one identity is kept: another identity is another file.

    identity: everything that the features depend on, as strings and numbers.
    """

    folder: Path
    identity: Mapping[str, str | int]

    @cached_property
    def path(self) -> Path:
        """A name made of the identity."""
        identity = json.dumps(dict(self.identity), sort_keys=True)
        return self.folder / (hashlib.sha256(identity.encode()).hexdigest()[:32] + SUFFIX)

    def read(self) -> Shard | None:
        """The shard, or None where there is none, a damaged one, or one of another identity."""
        try:
            with safe_open(self.path, framework="pt") as file:
                header = json.loads((file.metadata() or {})[_HEADER_KEY])
                if header["identity"] != dict(self.identity):
                    return None
                tensors = {name: file.get_tensor(name) for name in (_FEATURES, _DIGESTS, _OFFSETS)}
            # Safetensors notices a truncated file, but not a changed byte.
            if header["content"] != _content_digest(tensors, skipped=header["skipped"]):
                return None
            return Shard(
                features_ND=tensors[_FEATURES],
                pixel_digests=tuple(row.tobytes() for row in tensors[_DIGESTS].numpy()),
                offsets=tuple(tensors[_OFFSETS].tolist()),
                skipped=tuple(Skipped(**item) for item in header["skipped"]),
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None

    def write(self, shard: Shard) -> None:
        """Keeps the shard; the file appears whole or not at all.

        Raises: DataError where it cannot be written.
        """
        digests = bytearray(b"".join(shard.pixel_digests))
        tensors = {
            _FEATURES: shard.features_ND.contiguous(),
            _DIGESTS: torch.tensor(digests, dtype=torch.uint8).reshape(len(shard.pixel_digests), PIXEL_DIGEST_BYTES),
            _OFFSETS: torch.tensor(shard.offsets, dtype=torch.int64),
        }
        skipped = [asdict(item) for item in shard.skipped]
        content = _content_digest(tensors, skipped=skipped)
        header = {"identity": dict(self.identity), "skipped": skipped, "content": content}
        # The process's number: two of them may compute the same shard.
        partial = self.path.with_name(f".{self.path.stem}.{os.getpid()}{PARTIAL_SUFFIX}")
        try:
            save_file(tensors, partial, metadata={_HEADER_KEY: json.dumps(header)})
            partial.replace(self.path)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"features must be kept on disk, but writing to {str(self.folder)!r} failed: {error}; free some space, "
                "or set XDG_CACHE_HOME to a folder with more"
            ) from error
        finally:
            partial.unlink(missing_ok=True)


def _content_digest(tensors: Mapping[str, Tensor], *, skipped: Sequence[Mapping[str, str]]) -> str:
    content = hashlib.sha256(json.dumps(skipped).encode())
    for name in (_FEATURES, _DIGESTS, _OFFSETS):
        content.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        content.update(tensors[name].numpy().tobytes())
    return content.hexdigest()
