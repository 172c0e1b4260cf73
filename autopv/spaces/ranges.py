"""What one value may be: a whole number in bounds, a float in bounds, or one of a list."""

import math
from dataclasses import dataclass

from autopv.errors import SpaceError

SIGNIFICANT_DIGITS = 4
"""Floats are rounded to so many digits: finer differences change no picture, and policies stay readable. It also makes
a value the same again after it was mapped to [0, 1] and back."""


@dataclass(frozen=True)
class IntRange:
    """Whole numbers from low to high, both included."""

    low: int
    high: int


@dataclass(frozen=True)
class FloatRange:
    """Floats from low to high, both included, evenly or (log) evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise SpaceError(f"low <= high must hold for finite bounds, but got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise SpaceError(f"low > 0 must hold where log = true, but got low={self.low}")

    def rounded(self, value: float) -> float:
        """The value to SIGNIFICANT_DIGITS, still within the bounds."""
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), self.low), self.high)

    def at(self, share: float) -> float:
        """The rounded value that lies at `share` (0 to 1) of the range.

        >>> FloatRange(0.01, 0.16, log=True).at(0.5)
        0.04
        """
        if self.log:
            return self.rounded(self.low * (self.high / self.low) ** share)
        return self.rounded(self.low + (self.high - self.low) * share)

    def share(self, value: float) -> float:
        """Where in the range the value lies: `at` of it is the value again, if it is one that `at` can return.

        A value beyond the bounds counts as the bound.
        """
        value = min(max(value, self.low), self.high)
        if self.low == self.high:
            return 0.0
        if self.log:
            return min(math.log(value / self.low) / math.log(self.high / self.low), 1.0)
        return min((value - self.low) / (self.high - self.low), 1.0)


@dataclass(frozen=True)
class Choice:
    """One of the options."""

    options: tuple[str | float, ...]
