"""Crashes of a virtual driver, and what must hold when another driver has gone on from its folder."""

import math
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine
from virtual import TRIAL_FLOPS, Driver
from world import Setting, World

from autopv.search.conclusion import stored_arms
from autopv.search.ledger import VerificationResult
from autopv.search.records import TrialRecord

MOST_OVERSPENT = 0.02


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What had finished at some moment: this may never change again."""

    trials: tuple[TrialRecord, ...]
    verified: tuple[VerificationResult, ...]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a run ended that was resumed after a crash. num_finished: trials that had finished at the crash."""

    wrong: tuple[str, ...]
    num_finished: int
    num_unpaid_blocks: int
    spent_s: float
    held_s: float


def violations(driver: Driver, *, finished: Finished) -> list[str]:
    """What is wrong with a run that came to its end, given what had finished at an earlier crash."""
    world, budget_s = driver.world, driver.budget.device_s
    assert budget_s is not None
    wrong = []
    trials = {record.key: record for record in driver.study.records()}
    wrong += [f"trial {r.key} was {r} and is {trials.get(r.key)}" for r in finished.trials if trials.get(r.key) != r]
    wrong += [f"trial {r.key} is still running" for r in trials.values() if r.state == "running"]
    verified = driver.ledger.verification()
    wrong += [f"verification run {run} is lost" for run in finished.verified if run not in verified]
    for seed, missing in _broken_blocks(driver).items():
        rest_s = missing * driver.spending.speed.item_s(flops=TRIAL_FLOPS, num_looks=1)
        if rest_s <= budget_s - driver.ledger.spent_s():
            wrong.append(f"block {seed} lacks {missing} runs that the budget would have paid for")
    for name, spent_s in (("charged", driver.ledger.spent_s()), ("held", world.held_s)):
        if spent_s > budget_s * (1 + MOST_OVERSPENT):
            wrong.append(f"{spent_s:.0f} device-seconds were {name}, but the budget is {budget_s:.0f}")
    return wrong


def num_unpaid_blocks(driver: Driver) -> int:
    """Verification blocks that were begun and are not whole, for whatever reason."""
    return len(_broken_blocks(driver))


def chosen(num: int, *, num_crashes: int, seed: int) -> list[int]:
    """At which of so many events (or writes) to crash, drawn evenly."""
    return sorted(random.Random(seed).sample(range(1, num + 1), num_crashes))


def num_writes(path: Path, setting: Setting) -> int:
    """How often a run that never crashes writes to one of its databases."""
    driver, count = Driver(path, World(setting)), 0

    def note() -> None:
        nonlocal count
        count += 1

    with _before_each_write(driver, note):
        assert driver.run()
    return count


def crash_in_forks(path: Path, setting: Setting, *, writes: Sequence[int]) -> list[Ending]:
    """How each copy of a run ended that was killed just before one of these writes, and resumed."""
    driver, wanted, count = Driver(path / "run", World(setting)), set(writes), 0
    forks: list[tuple[Path, World, tuple[TrialRecord, ...]]] = []

    def fork() -> None:
        nonlocal count
        count += 1
        if count in wanted:
            folder = path / f"killed-{count}"
            forks.append((folder, driver.fork(folder), _finished_trials(driver)))

    with _before_each_write(driver, fork):
        assert driver.run()
    endings = []
    for folder, world, trials in forks:
        resumed = Driver(folder, world)
        finished = Finished(trials=trials, verified=resumed.ledger.verification())
        assert resumed.run()
        endings.append(
            Ending(
                wrong=tuple(violations(resumed, finished=finished)),
                num_finished=len(finished.trials),
                num_unpaid_blocks=num_unpaid_blocks(resumed),
                spent_s=resumed.ledger.spent_s(),
                held_s=world.held_s,
            )
        )
    return endings


def crash_in_one_run(path: Path, setting: Setting, *, events: Sequence[int]) -> tuple[Driver, int, list[str]]:
    """The last driver of a run whose drivers are killed at each of the events, how many were, and what was wrong."""
    folder, world, num_before = path / "life-0", World(setting), 0
    snapshots: list[Finished] = []
    while True:
        driver = Driver(folder, world)
        next_crash = events[len(snapshots)] if len(snapshots) < len(events) else math.inf

        def goes_on(driver: Driver = driver, left: float = next_crash - num_before) -> bool:
            return driver.num_events < left

        if driver.run(on_event=goes_on):
            break
        num_before += driver.num_events
        snapshots.append(Finished(trials=_finished_trials(driver), verified=driver.ledger.verification()))
        folder = path / f"life-{len(snapshots)}"
        world = driver.fork(folder)
        shutil.rmtree(driver.path)
    wrong = [text for finished in snapshots for text in violations(driver, finished=finished)]
    return driver, len(snapshots), list(dict.fromkeys(wrong))


def _broken_blocks(driver: Driver) -> dict[int, int]:
    """By seed, how many runs are missing in verification blocks that were begun."""
    arms = {arm.name for arm in stored_arms(driver.ledger)}
    ended: dict[int, set[str]] = defaultdict(set)
    for run in driver.ledger.verification():
        ended[run.seed].add(run.arm)
    return {seed: len(arms - names) for seed, names in ended.items() if arms - names}


def _finished_trials(driver: Driver) -> tuple[TrialRecord, ...]:
    return tuple(record for record in driver.study.records() if record.state != "running")


@contextmanager
def _before_each_write(driver: Driver, call: Callable[[], None]) -> Iterator[None]:
    """A block in which `call` is called before each commit to the study and each writing statement to the ledger."""

    def before_commit(_: object) -> None:
        call()

    def before_statement(statement: str) -> None:
        if not statement.startswith("select"):
            call()

    event.listen(Engine, "commit", before_commit)
    driver.ledger._db.set_trace_callback(before_statement)
    try:
        yield
    finally:
        event.remove(Engine, "commit", before_commit)
        driver.ledger._db.set_trace_callback(None)
