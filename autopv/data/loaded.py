"""What a source of images holds once it is read, before it becomes an ImageSet."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Loaded:
    """Images (N, S, S, C) with C = 1 or 3, their names, and what the source knows of them.

    masks_NHW: true where a defect is; None where the source has no masks. classes: None where it has none.
    groups: what shows the same object, for sources that know; None where each image is its own.
    """

    pixels_NHWC: NDArray[np.uint8]
    names: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    masks_NHW: NDArray[np.bool_] | None = None
    groups: tuple[str, ...] | None = None
    skipped: tuple[Skipped, ...] = ()
