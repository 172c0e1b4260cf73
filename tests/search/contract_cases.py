"""What the contract tests of Ray and Optuna share: the news that a trap is gone, and a driver's objects."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.events import EventLog
from autopv.search.hooks import Hooks
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.sources import SearchSource
from autopv.search.spending import Reserve, Speed, Spending
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import Control

SPACE = Space.load("stage2_expressive")


@contextmanager
def trap(number: int, *, closed_in: str) -> Iterator[None]:
    """Fails with the news that a trap of the library is gone if what shows it inside the block does not hold."""
    try:
        yield
    except (AssertionError, pytest.fail.Exception) as why:
        pytest.fail(
            f"trap {number} is gone: autopv's workaround in {closed_in} can go. What no longer holds: {why}",
            pytrace=False,
        )
    except (AttributeError, ImportError, TypeError) as error:
        error.add_note(f"trap {number} could not be tried: the library's internals moved. Show it in another way.")
        raise


class RecordingSearcher(Searcher):
    """Proposes the same empty configuration for ever, and remembers whose ends it was told."""

    def __init__(self, metric: str = "loss") -> None:
        super().__init__(metric=metric, mode="min")
        self.told: list[str] = []

    def suggest(self, trial_id: str) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.told.append(trial_id)


class ListSource:
    """Hands out the items it is given, and remembers how each ended."""

    phase = "search"

    def __init__(self, items: list[WorkItem]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._items = items
        self._left: list[WorkItem] = []

    def begin(self) -> None:
        self._left = [item for item in self._items if item.key not in self.outcomes]

    def next_item(self) -> WorkItem | None:
        return self._left.pop(0) if self._left else None

    def exhausted(self) -> bool:
        return len(self.outcomes) == len(self._items)

    def judge(self, item: WorkItem, look: Look) -> bool:
        return look.fraction < item.rungs[-1]

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        assert item.key not in self.outcomes, "an item ends once"
        self.outcomes[item.key] = outcome


@dataclass
class VirtualClock:
    now_s: float = 1e9

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Driver:
    """What a driver works with, in a run folder of its own and on virtual time; a trial is expected to take 10 s."""

    path: Path
    clock: VirtualClock = field(default_factory=VirtualClock)

    def __post_init__(self) -> None:
        self.folder = RunFolder.create(self.path)
        self.events = EventLog(self.folder.events)
        self.ledger = Ledger(self.folder.ledger, clock=self.clock)

    def study(self, *, controls: tuple[Control, ...] = ()) -> SearchStudy:
        """The study as a process that was just started opens it."""
        return SearchStudy(self.folder.study, space=SPACE, controls=controls, seed=0, rungs=(0.5, 1.0))

    def spending(self, budget: Budget) -> Spending:
        return Spending(budget=budget, ledger=self.ledger, speed=Speed(s_per_flop=10.0, look_s=0.0, start_s=0.0))

    def source(self, study: SearchStudy, *, budget: Budget) -> SearchSource:
        reserve = Reserve(flops=1.0, num_items=0)
        source = SearchSource(study, budget=budget, spending=self.spending(budget), flops=1.0, reserve=reserve)
        source.begin()
        return source

    def hooks(self, study: SearchStudy, *, budget: Budget) -> Hooks:
        source = self.source(study, budget=budget)
        spending = self.spending(budget)
        return Hooks(source, folder=self.folder, ledger=self.ledger, spending=spending, events=self.events)


def item(key: str, *, policy: Mapping[str, Any] | None = None) -> WorkItem:
    """A work item with one rung; the policy may say to a pretended worker what to do."""
    policy = Policy.image_only().to_dict() if policy is None else policy
    return WorkItem(key=key, label=key, policy=policy, seed=0, rungs=(1.0,), split="search", flops=1.0)


def report(
    *, distance: float | None = None, fraction: float | None = None, failure: str | None = None
) -> dict[str, Any]:
    """One report of a worker that measured nothing, so without a distance, as workers report it."""
    nothing = {"training_s": 0.0, "evaluation_s": 0.0, "rendering_s": 0.0, "startup_s": 0.0, "flops_done": 0.0}
    return {**nothing, "fraction": None, "failure": failure, "progress": 0.5, "steps": 1, "flops": 1.0}
