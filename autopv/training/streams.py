"""Random streams that depend on a seed, a purpose and a step alone, so that there is no generator state to lose."""

import hashlib

import torch
from torch import Tensor


def stream(seed: int, *, purpose: str, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose (`order`, `render`, ...) at one step.

    A resumed, branched or repeated training meets the same draws at the same step by construction.
    """
    digest = hashlib.sha256(f"autopv {seed} {purpose} {step}".encode()).digest()
    # torch.Generator takes a non-negative int64.
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class BatchOrder:
    """Which images each step takes: every image once per epoch, in an order drawn afresh for each epoch."""

    def __init__(self, num_images: int, *, batch_size: int, seed: int) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self._epoch = -1
        self._permutation_N = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Indices_B of the images of one step (counted from 0); a batch may span the ends of epochs."""
        first = step * self.batch_size
        parts, taken = [], 0
        while taken < self.batch_size:
            epoch, offset = divmod(first + taken, self.num_images)
            part = self._permutation(epoch)[offset : offset + self.batch_size - taken]
            parts.append(part)
            taken += len(part)
        return torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = stream(self.seed, purpose="order", step=epoch)
            self._permutation_N = torch.randperm(self.num_images, generator=generator)
            self._epoch = epoch
        return self._permutation_N
