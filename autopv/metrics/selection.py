"""Which images stand for a larger set."""

import torch
from torch import Tensor


def evenly(size: int, *, count: int) -> Tensor:
    """`count` of `size` rows, ascending: one from each of as many stretches of equal length, and always the same ones.

    Sets are often sorted, so the first rows would be one class; where in its stretch a row lies is drawn at random, so
    that an order that repeats itself (good, defect, good ...) does not leave a kind of image out.
    """
    edges = torch.arange(count + 1) * size // max(count, 1)
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return edges[:-1] + (drawn * (edges[1:] - edges[:-1])).long()
