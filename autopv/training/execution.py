"""How the arithmetic of a training is carried out: precision, compilation, and how much of a batch at a time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from autopv.errors import InputError, nearest

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What changes a training's speed and the last bits of its numbers, and nothing else.

    precision: `float32`, or `bfloat16` for autocast (weights, optimiser and reductions stay float32).
    compiled: whether the loss runs through `torch.compile`. num_parts: into how many parts a batch is cut, one after
    the other, their gradients added: less memory, the same step.
    """

    precision: str = "float32"
    compiled: bool = False
    num_parts: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision {self.precision!r}.{nearest(self.precision, PRECISIONS)}")
        if self.num_parts < 1:
            raise InputError(f"num_parts >= 1 must hold, but got num_parts={self.num_parts}")

    def describe(self) -> str:
        """Its name in words: precision, and whether compiled."""
        return self.precision + (" compiled" if self.compiled else "")

    def autocast(self, device_type: str) -> AbstractContextManager[None]:
        """The context in which the loss is computed."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device_type, PRECISIONS[self.precision])

    def parts(self, num_images: int) -> Iterator[slice]:
        """Which images of a batch are taken together."""
        size = -(-num_images // self.num_parts)
        return (slice(start, min(start + size, num_images)) for start in range(0, num_images, size))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not allocate, on whatever device: a smaller part of the batch may still fit."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
