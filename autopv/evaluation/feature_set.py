"""The features of a set of images, read from disk a shard at a time."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from torch import Tensor

from autopv.data.loaded import Skipped
from autopv.errors import DataError, MetricError
from autopv.evaluation.feature_shards import ShardFile
from autopv.metrics.features import Extractor
from autopv.metrics.frechet import Moments


@dataclass(frozen=True, kw_only=True)
class FeatureIdentity:
    """What made the features: sets may be compared only where all of it is equal.

    size_px: what images were resized to before the extractor resized them to its input. device: type of the device.
    """

    extractor: str
    extractor_digest: str
    precision: str
    input_size_px: int
    size_px: int
    device: str

    @classmethod
    def of(cls, extractor: Extractor, *, size_px: int, device: torch.device) -> "FeatureIdentity":
        """The identity of features that this extractor makes."""
        return cls(
            extractor=extractor.name,
            extractor_digest=extractor.digest,
            precision=extractor.precision,
            input_size_px=extractor.input_size_px,
            size_px=size_px,
            device=device.type,
        )

    def to_dict(self) -> dict[str, str | int]:
        """The identity as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class FeatureSet:
    """Features (N, D), float32, of the N readable images of a source, in its order; only names and digests are held.

    indices: each row's image in the source. pixel_digests: equal where two images are equal pixel for pixel at size_px
    (grey and the same grey in three channels are), in this set or in another one of that size.
    files: the shards, of `file_sizes` rows each.
    Images that are all equal make a set like any other: its covariance is exactly zero, and `num_duplicates` is N - 1.
    """

    label: str
    identity: FeatureIdentity
    num_features: int
    names: tuple[str, ...]
    classes: tuple[str, ...] | None
    indices: tuple[int, ...]
    pixel_digests: tuple[bytes, ...]
    skipped: tuple[Skipped, ...]
    files: tuple[ShardFile, ...]
    file_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        for field in ("indices", "pixel_digests", "classes"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.names):
                raise DataError(f"{field} must be one per image ({len(self.names)}), but got {len(values)}")
        if len(self.files) != len(self.file_sizes) or sum(self.file_sizes) != len(self.names):
            raise DataError(f"the shards must hold {len(self.names)} rows, but hold {list(self.file_sizes)}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_duplicates(self) -> int:
        """How many images repeat an earlier one of this set, pixel for pixel."""
        return len(self) - len(set(self.pixel_digests))

    @cached_property
    def digest(self) -> str:
        """A hash of the images' pixels at size_px, in order, wherever they lie and whatever they are called."""
        content = hashlib.sha256(f"{self.identity.size_px} px".encode())
        for pixels in self.pixel_digests:
            content.update(pixels)
        return content.hexdigest()

    def shards(self) -> Iterator[Tensor]:
        """The features in order, some (n, D) at a time."""
        return (self._read(place) for place, size in enumerate(self.file_sizes) if size)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The features of these rows (0 .. N - 1), in the order asked for.

        Raises: MetricError for a row that the set does not have.
        """
        wanted_M = torch.as_tensor(indices)
        if wanted_M.numel() and (wanted_M.ndim != 1 or wanted_M.dtype != torch.int64):
            raise MetricError(f"rows are asked for by their numbers, but got {wanted_M.dtype}, shape {wanted_M.shape}")
        if wanted_M.numel() and not (int(wanted_M.min()) >= 0 and int(wanted_M.max()) < len(self)):
            raise MetricError(
                f"0 <= row < {len(self)} must hold in {self.label!r}, but got {int(wanted_M.min())} to "
                f"{int(wanted_M.max())}"
            )
        features_MD = torch.empty(wanted_M.numel(), self.num_features)
        first = 0
        for place, size in enumerate(self.file_sizes):
            here_M = (wanted_M >= first) & (wanted_M < first + size)
            if bool(here_M.any()):
                features_MD[here_M] = self._read(place)[wanted_M[here_M] - first]
            first += size
        return features_MD

    def moments(self, rows: Tensor | None = None) -> Moments:
        """Mean and unbiased covariance of all images, or of these distinct rows, in one pass over the shards.

        Each shard is centred on its own mean and merged, so that a mean far from zero costs no digits.
        Source: Chan, Golub & LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
        """
        count = 0
        mean_D = torch.zeros(self.num_features, dtype=torch.float64)
        scatter_DD = torch.zeros(self.num_features, self.num_features, dtype=torch.float64)
        chosen = torch.ones(len(self), dtype=torch.bool)
        if rows is not None:
            chosen[:] = False
            chosen[rows] = True
        first = 0
        for shard_ND in self.shards():
            features_ND = shard_ND[chosen[first : first + len(shard_ND)]]
            first += len(shard_ND)
            num = len(features_ND)
            if num == 0:
                continue
            shard_mean_D = features_ND.to(torch.float64).mean(dim=0)
            centred_ND = features_ND.to(torch.float64) - shard_mean_D
            shift_D = shard_mean_D - mean_D
            scatter_DD += centred_ND.T @ centred_ND
            scatter_DD += torch.outer(shift_D, shift_D) * (count * num / (count + num))
            count += num
            mean_D += shift_D * (num / count)
        return Moments(mean_D=mean_D, covariance_DD=scatter_DD / (count - 1))

    def _read(self, place: int) -> Tensor:
        shard = self.files[place].read()
        if shard is None or shard.features_ND.shape != (self.file_sizes[place], self.num_features):
            raise DataError(
                f"the features of {self.label!r} must stay on disk while they are used, but {self.files[place].path} "
                "was removed or damaged; run again"
            )
        return shard.features_ND
