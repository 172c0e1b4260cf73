"""The searches that are compared, each on pretended trainings and virtual time, with as many workers and equal budget.

autopv and its simpler forms are driven through the real `SearchStudy`; the stock one through Ray's own `OptunaSearch`
and `AsyncHyperBandScheduler`, as a user would put them together, with the reduction factor and grace period that are
their defaults. Only trainings are pretended, and only their compute is counted.
"""

import heapq
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna

from autopv.policy import Policy
from autopv.search.ranking import expected_results
from autopv.search.request import RUNGS, SearchRequest
from autopv.search.sources import PROMOTED_AFTER
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import default_controls, random_controls

SPACE = Space.load("stage2_expressive").for_data(has_masks=False)
NUM_WORKERS = 4


class World(Protocol):
    """Pretended trainings (landscape.py)."""

    floor: float

    def log_excess(self, policy: Policy, *, length: float = 1.0) -> float: ...

    def distance(self, policy: Policy, *, seed: int, length: float) -> float: ...


@dataclass(kw_only=True)
class Running:
    """A pretended training under way. begun: the length it starts from; left: the lengths at which it will report."""

    tag: Any
    policy: Policy
    seed: int
    left: list[float]
    begun: float = 0.0


class Search(Protocol):
    """One way to search."""

    def start(self, *, share_spent: float) -> Running | None:
        """The next training to start; None where there is none until another ends."""

    def report(self, running: Running, *, length: float, distance: float) -> bool:
        """Takes a look; returns whether the training goes on. Called at every length in `left`."""

    def delivered(self) -> Policy | None:
        """The policy that it would give to the user now."""


def run(search: Search, world: World, *, budgets: Sequence[float]) -> Iterator[tuple[float, Policy | None]]:
    """(budget, what is delivered for it) for every budget, in full trials, in rising order."""
    queue: list[tuple[float, int, float, Running]] = []
    spent, now, count, due = 0.0, 0.0, 0, list(budgets)
    waiting = False
    while due:
        while len(queue) < NUM_WORKERS and not waiting:
            running = search.start(share_spent=spent / budgets[-1])
            waiting = running is None
            if running is not None:
                count += 1
                heapq.heappush(queue, _next_look(running, now=now, count=count))
        if not queue:
            break
        now, _, cost, running = heapq.heappop(queue)
        waiting = False
        while due and spent + cost > due[0]:  # what ends beyond the budget comes too late for it
            yield due.pop(0), search.delivered()
        spent += cost
        length = running.left.pop(0)
        goes_on = search.report(
            running, length=length, distance=world.distance(running.policy, seed=running.seed, length=length)
        )
        running.begun = length
        if goes_on and running.left:
            count += 1
            heapq.heappush(queue, _next_look(running, now=now, count=count))
    for budget in due:
        yield budget, search.delivered()


def _next_look(running: Running, *, now: float, count: int) -> tuple[float, int, float, Running]:
    cost = running.left[0] - running.begun
    return now + cost, count, cost, running


@dataclass(frozen=True, kw_only=True)
class Options:
    """What sets autopv's forms apart. luckiest: deliver the policy with the least distance, not the best expected."""

    sampler: str = SearchRequest.sampler
    stopping: str = SearchRequest.stopping
    repeat_share: float = SearchRequest.repeat_share
    controls: bool = True
    luckiest: bool = False


class Autopv:
    """The real study, with these options."""

    def __init__(self, options: Options, *, seed: int, floor: float, given: Mapping[str, Policy] | None = None) -> None:
        self._options, self._floor = options, floor
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None)
        controls = (*default_controls(), *random_controls(SPACE.random_policy, seed=seed)) if options.controls else ()
        self._study = SearchStudy(
            Path(self._folder.name) / "study.db",
            space=SPACE,
            controls=controls,
            seed=seed,
            rungs=RUNGS[-1:] if options.stopping == "none" else RUNGS,
            sampler=options.sampler,
            stopping=options.stopping,
            repeat_share=options.repeat_share,
            floor=floor,
            given=given or {},
        )

    def start(self, *, share_spent: float) -> Running | None:
        """As SearchSource does it."""
        begun, earlier = 0.0, {}
        if self._options.stopping == "top-k" and share_spent >= PROMOTED_AFTER:
            earlier = self._distances()  # what goes on is listed no more under its old key
            if not self._study.promote():
                return None
            begun = RUNGS[0]
        item = self._study.propose(flops=1.0)
        left = [rung for rung in item.rungs if rung > begun]
        policy = Policy.from_dict(item.policy)
        if begun:  # the look that it had is reported again, as by a worker that takes over
            self._study.judge(item, self._look(begun, earlier[item.continues]))
        return Running(tag=item, policy=policy, seed=item.seed, left=left, begun=begun)

    def report(self, running: Running, *, length: float, distance: float) -> bool:
        """As Hooks does it."""
        item: WorkItem = running.tag
        look = self._look(length, distance)
        goes_on = self._study.judge(item, look)
        if not goes_on:
            status = "complete" if length == item.rungs[-1] else "stopped"
            self._study.finish(item, Outcome(status=status, look=look))
        return goes_on

    def delivered(self) -> Policy | None:
        """Image-only training is no policy that was found."""
        ranked = self.ranked()
        return ranked[0] if ranked else None

    def ranked(self) -> list[Policy]:
        """Every policy that ran to the end, the best one first."""
        records = [record for record in self._study.records() if not record.policy.is_image_only]
        if self._options.luckiest:
            complete = [(record.distance, record.key, record) for record in records if record.distance is not None]
            return [record.policy for _, _, record in sorted(complete)]
        return [result.record.policy for result in expected_results(records, floor=self._floor)]

    def _look(self, length: float, distance: float) -> Look:
        return Look(fraction=length, distance=distance, steps=0, flops=length)

    def _distances(self) -> dict[str | None, float]:
        return {record.key: record.looks[RUNGS[0]] for record in self._study.records() if RUNGS[0] in record.looks}


@dataclass(kw_only=True)
class _StockTrial:
    trial_id: str
    config: dict[str, Any]
    last: float | None = None
    status: str = field(default="RUNNING")


class Stock:
    """Ray Tune's `OptunaSearch` and ASHA. Each iteration is a twelfth of a full trial: looks come after 1, 4 and 12."""

    LOOKS = (1 / 12, 1 / 3, 1.0)

    def __init__(self, *, seed: int, stops: bool = True) -> None:
        from ray.tune.schedulers import AsyncHyperBandScheduler
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        self._search = OptunaSearch(_ask, metric="distance", mode="min", seed=seed)
        self._scheduler = AsyncHyperBandScheduler(
            time_attr="training_iteration", metric="distance", mode="min", max_t=12
        )
        self._stops = stops
        self._trials: list[_StockTrial] = []

    def start(self, *, share_spent: float) -> Running | None:
        """As Tune's controller asks its searcher."""
        del share_spent
        trial_id = f"{len(self._trials):05d}"
        trial = _StockTrial(trial_id=trial_id, config=self._search.suggest(trial_id))
        self._trials.append(trial)
        self._scheduler.on_trial_add(None, trial)
        return Running(tag=trial, policy=SPACE.decode(trial.config), seed=1, left=list(self.LOOKS))

    def report(self, running: Running, *, length: float, distance: float) -> bool:
        """As Tune's controller handles a result."""
        from ray.tune.schedulers import TrialScheduler

        trial: _StockTrial = running.tag
        trial.last = distance
        result = {"training_iteration": round(12 * length), "distance": distance, "trial_id": trial.trial_id}
        self._search.on_trial_result(trial.trial_id, result)
        decision = self._scheduler.on_trial_result(None, trial, result)
        if length < 1 and (decision == TrialScheduler.CONTINUE or not self._stops):
            return True
        self._scheduler.on_trial_complete(None, trial, result)
        self._search.on_trial_complete(trial.trial_id, result=result)
        return False

    def delivered(self) -> Policy | None:
        """`ResultGrid.get_best_result()`: the trial whose last result is the least."""
        measured = [(trial.last, trial.trial_id, trial) for trial in self._trials if trial.last is not None]
        return SPACE.decode(min(measured)[2].config) if measured else None


class RandomSearch:
    """Random policies, each trained to the end once; the luckiest is delivered."""

    def __init__(self, *, seed: int) -> None:
        self._chance = random.Random(seed)
        self._measured: list[tuple[float, int, Policy]] = []

    def start(self, *, share_spent: float) -> Running | None:
        """Another one, whatever came before."""
        del share_spent
        return Running(tag=None, policy=SPACE.random_policy(self._chance.getrandbits(31)), seed=1, left=[1.0])

    def report(self, running: Running, *, length: float, distance: float) -> bool:
        """Ends with its only look."""
        del length
        self._measured.append((distance, len(self._measured), running.policy))
        return False

    def delivered(self) -> Policy | None:
        """The one with the least distance."""
        return min(self._measured)[2] if self._measured else None


def _ask(trial: optuna.Trial) -> None:
    """Ray's define-by-run hook: asks for every parameter of a policy."""
    SPACE.suggest(trial)
