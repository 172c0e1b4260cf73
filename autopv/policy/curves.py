"""How a layer's magnitude falls to zero over the frames."""

import math

CURVES = ("linear", "cosine", "power")


def level(curve: str, *, frame: int, frames: tuple[int, int]) -> float:
    """The share of the full magnitude at `frame` (1 = most corrupted): 1 up to frames[0], 0 after frames[1].

    >>> [level("linear", frame=t, frames=(1, 3)) for t in (1, 3, 4)]
    [1.0, 0.33333333333333337, 0.0]
    """
    first, last = frames
    if frame <= first:
        return 1.0
    if frame > last:
        return 0.0
    fallen = (frame - first) / (last + 1 - first)
    if curve == "linear":
        return 1 - fallen
    if curve == "cosine":
        return (1 + math.cos(math.pi * fallen)) / 2
    return (1 - fallen) ** 2
