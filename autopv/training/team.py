"""Processes that train one model together, each on its equal part of every batch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from autopv.errors import AutopvError, InputError

Answer = TypeVar("Answer")


class Team:
    """One of `size` equal parts of a training; alone, the whole of it, and nothing is sent anywhere.

    All of a team do the same steps with the same weights and decide alike; what is done once is done by the first.
    Larger teams talk through torch's process group, which must take tensors of the CPU too.
    """

    def __init__(self, *, rank: int = 0, size: int = 1) -> None:
        if not 0 <= rank < size:
            raise InputError(f"0 <= rank < size must hold in a team, but got rank={rank}, size={size}")
        self.rank, self.size = rank, size

    @classmethod
    def joined(cls) -> "Team":
        """This process's part in the process group that it has joined."""
        from torch import distributed

        return cls(rank=distributed.get_rank(), size=distributed.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this part measures, saves and speaks for all."""
        return self.rank == 0

    def rows(self, batch_size: int) -> slice:
        """Which images of a batch are this part's. Raises: InputError where the parts would not be equal."""
        check_equal_parts(batch_size, num_workers=self.size)
        own = batch_size // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, whose gradients from now on are means over the team."""
        if self.size == 1:
            return module
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module)

    def gathering(self, module: nn.Module) -> AbstractContextManager[None]:
        """A block whose gradients are only added up here, until a pass outside of it shares them all."""
        no_sync = getattr(module, "no_sync", None)
        return nullcontext() if no_sync is None else no_sync()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the team, the same to the bit in all of it."""
        if self.size == 1:
            return values
        from torch import distributed

        total = values.clone()
        distributed.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether it is true in any of the team."""
        if self.size == 1:
            return flag
        from torch import distributed

        raised = torch.tensor(int(flag))
        distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
        return bool(raised)

    def told(self, answer: Callable[[], Answer]) -> Answer:
        """What `answer` returns, or raises of our own errors, in the first of the team, which alone calls it."""
        if self.size == 1:
            return answer()
        from torch import distributed

        # What it says: an answer, or an error.
        said: list[tuple[Answer | None, AutopvError | None]] = [(None, None)]
        if self.is_first:
            try:
                said = [(answer(), None)]
            except AutopvError as error:
                said = [(None, error)]
        distributed.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        value, failure = said[0]
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    def in_turn(self, action: Callable[[], Answer]) -> Answer:
        """What `action` returns here, after the first of the team is done with it: what that one left, others find."""
        if self.size == 1:
            return action()
        done: list[Answer] = []
        self.told(lambda: done.append(action()))
        return done[0] if done else action()


def check_equal_parts(batch_size: int, *, num_workers: int) -> None:
    """Nothing, if a batch can be dealt out. Raises: InputError."""
    if batch_size % num_workers:
        below = batch_size - batch_size % num_workers
        near = f"{below} or {below + num_workers}" if below else f"{num_workers}"
        raise InputError(
            f"the batch size must be a multiple of the number of workers, which take equal parts of every batch, but "
            f"got {batch_size} images for {num_workers} workers: give --batch-size {near}, or another --num-workers"
        )
