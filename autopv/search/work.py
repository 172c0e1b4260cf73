"""Work items: what a worker is asked to do, and what came of it. Searching and verifying hand out the same kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Decision = Literal["goes on", "stopped", "unpaid"]
"""What becomes of an item after a look; `unpaid`: the budget no longer holds the rest of it."""


@dataclass(frozen=True, kw_only=True)
class WorkItem:
    """One training to run: a policy, a seed, and the shares of its compute at which it is measured.

    key: names the item and its folder. label: what to call it in front of people. policy: the policy as its own dict.
    split: the split whose metric measures it.
    flops: training FLOPs if it runs to its last rung.
    continues: the key of an earlier item whose folder it takes over, which ended before its last rung.
    may_go_on: whether another item may continue this one after it was stopped.
    """

    key: str
    label: str
    policy: Mapping[str, Any]
    seed: int
    rungs: tuple[float, ...]
    split: str
    flops: float
    continues: str | None = None
    may_go_on: bool = False


@dataclass(frozen=True, kw_only=True)
class Look:
    """One measurement of one item: the last-frame distance after a share of its compute; annealed at the last rung."""

    fraction: float
    distance: float
    steps: int
    flops: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an item ended.

    status: `complete` at its last rung, `stopped` before it, `failed` for a reason, or `unpaid` because the budget was
    spent first (which says nothing about its policy).
    """

    status: Literal["complete", "stopped", "failed", "unpaid"]
    look: Look | None = None
    failure: str | None = None


class WorkSource(Protocol):
    """Hands out work items and takes what came of them; the executor asks nothing else."""

    @property
    def phase(self) -> str:
        """Which phase the next item belongs to; the ledger charges it there."""

    def begin(self) -> None:
        """Called before each launch of Ray: items that were handed out and did not finish are handed out again."""

    def next_item(self) -> WorkItem | None:
        """The next item to start now, or None when there is none (any more, or until a running one ends)."""

    def exhausted(self) -> bool:
        """Whether `next_item` will never return another item."""

    def judge(self, item: WorkItem, look: Look) -> Decision:
        """Takes a measurement; returns what becomes of the item (after its last rung: "stopped")."""

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        """Takes the end of an item; called exactly once for each item of this launch that ended."""
