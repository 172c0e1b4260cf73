"""A number with the influence of every image on it: standard errors and paired differences by linear algebra."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from scipy.special import ndtri  # scipy.stats takes a second to import, and every command would wait for it
from torch import Tensor

from autopv.errors import MetricError


@dataclass(frozen=True, eq=False)
class Estimate:
    """A value, and for each set of images how far every one of its images moves the value.

    influences: per name of a set a float64 vector, one entry for each of its images: the derivative of the value in
    eps when the image's weight becomes (1 + eps) / n, minus the set's mean. Their squares sum to the variance that
    drawing the set anew would cause, as far as the value is linear in the weights (the infinitesimal jackknife).
    Sums, differences and means combine values and influences alike, so what two estimates share is paired.
    Source: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", ch. 6.
    """

    value: float
    influences: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        for name, vector in self.influences.items():
            if vector.ndim != 1 or not bool(vector.isfinite().all()):
                raise MetricError(
                    f"influences must be finite vectors, one entry for each image, but those of {name!r} are not"
                )
        frozen = {name: vector.to(torch.float64) for name, vector in self.influences.items()}
        object.__setattr__(self, "influences", MappingProxyType(frozen))

    @classmethod
    def of_mean(cls, values_N: Tensor, *, name: str) -> "Estimate":
        """The mean of one figure for each image of a set."""
        values_N = values_N.to(torch.float64)
        return cls(float(values_N.mean()), {name: (values_N - values_N.mean()) / len(values_N)})

    @classmethod
    def mean(cls, estimates: Sequence["Estimate"]) -> "Estimate":
        """The mean of at least one estimate."""
        total = estimates[0]
        for one in estimates[1:]:
            total = total + one
        return total * (1 / len(estimates))

    @property
    def standard_error(self) -> float:
        """The standard deviation that drawing all sets anew would cause."""
        return math.sqrt(sum(float(vector.square().sum()) for vector in self.influences.values()))

    def interval(self, *, confidence: float = 0.95) -> tuple[float, float]:
        """The value's two-sided normal interval."""
        reach = float(ndtri((1 + confidence) / 2)) * self.standard_error
        return self.value - reach, self.value + reach

    def __add__(self, other: "Estimate") -> "Estimate":
        return self._combined(other, sign=1)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return self._combined(other, sign=-1)

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, {name: vector * factor for name, vector in self.influences.items()})

    def _combined(self, other: "Estimate", *, sign: int) -> "Estimate":
        influences = dict(self.influences)
        for name, vector in other.influences.items():
            known = influences.get(name)
            if known is not None and len(known) != len(vector):
                raise MetricError(
                    f"both estimates must know the set {name!r} alike, but it has {len(known)} images in one and "
                    f"{len(vector)} in the other"
                )
            influences[name] = sign * vector if known is None else known + sign * vector
        return Estimate(self.value + sign * other.value, influences)
