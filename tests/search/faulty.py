"""Workers with faults of their own, and short items to run on them: the executor alone, without a whole job around it.

A fault travels with the training images, which a worker opens before it trains: what it does there, it does in the
worker alone.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from ray import cloudpickle
from torch import Tensor

from autopv.data.filed import FiledTensor
from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.events import EventLog, read_events
from autopv.search.executor import Executor
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Speed, Spending
from autopv.search.trial import WorkerInputs
from autopv.search.work import Look, Outcome, WorkItem
from autopv.training.material import Material, Setup
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

# More than the two seconds between two reports.
NUM_STEPS = 300
# The seed of the item that meets the fault.
VICTIM = 666
Fault = Callable[[], None]


@dataclass(frozen=True)
class FaultyImages(FiledTensor):
    """Training images whose opening in a worker brings a fault about."""

    images_NCHW: Tensor = field(default_factory=lambda: torch.zeros(0))
    fault: Fault = lambda: None

    def open(self) -> Tensor:
        self.fault()
        return self.images_NCHW


class Items:
    """A source of items that only counts what becomes of them."""

    phase = "search"

    def __init__(self, seeds: Sequence[int]) -> None:
        self._items = [item(seed) for seed in seeds]
        self._waiting: list[WorkItem] = []
        self.outcomes: dict[int, Outcome] = {}

    def begin(self) -> None:
        self._waiting = [item for item in self._items if item.seed not in self.outcomes]

    def next_item(self) -> WorkItem | None:
        return self._waiting.pop(0) if self._waiting else None

    def exhausted(self) -> bool:
        return len(self.outcomes) == len(self._items)

    def judge(self, item: WorkItem, look: Look) -> bool:
        return look.fraction < item.rungs[-1]

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        assert item.seed not in self.outcomes, "an item ends once"
        self.outcomes[item.seed] = outcome


class Bench:
    """A run folder with what workers need in it, and the executor's other arguments."""

    def __init__(self, path: Path, *, image_file: Path, budget: Budget | None = None) -> None:
        material = Material.load(Setup(data=str(image_file)))
        self.folder = RunFolder.create(path)
        (path / "metrics").mkdir()
        material.metric("search").save(self.folder.metric("search"))
        self.images_NCHW = material.images("train")
        self.ledger = Ledger(self.folder.ledger)
        self.events = EventLog(self.folder.events)
        self.spending = Spending(
            budget=budget or Budget(trials=1000),
            ledger=self.ledger,
            speed=Speed(s_per_flop=0.0, look_s=0.0, start_s=0.0),
        )
        step = trainer(self.images_NCHW, total_flops=1e15).flops_per_step
        self._plan = TrainingPlan(total_flops=NUM_STEPS * step, batch_size=4)

    def executor(self, *, num_workers: int = 1, address: str | None = None, share: float = 1.0) -> Executor:
        return Executor(
            self.folder,
            num_workers=num_workers,
            device="cpu",
            ledger=self.ledger,
            spending=self.spending,
            events=self.events,
            address=address,
            share=share,
        )

    def inputs(self, fault: Fault | None = None, *, num_steps: int = NUM_STEPS) -> WorkerInputs:
        images: Tensor | FiledTensor = self.images_NCHW
        if fault is not None:
            travels(__name__)
            images = FaultyImages(Path(), torch.uint8, self.images_NCHW, fault)
        total_flops = self._plan.total_flops * num_steps / NUM_STEPS
        return WorkerInputs(
            run_folder=str(self.folder.path.resolve()),
            train_images_NCHW=images,
            train_masks_NHW=None,
            model="hvae",
            preset="tiny",
            plan=TrainingPlan(total_flops=total_flops, batch_size=4),
            device="cpu",
        )

    def reasons(self) -> list[str]:
        """Why workers were lost, in order."""
        return [event["reason"] for event in read_events(self.folder.events) if event["event"] == "worker_lost"]


def travels(module: str) -> None:
    """Sends what that module defines to workers by value: they cannot import the tests."""
    cloudpickle.register_pickle_by_value(sys.modules[module])


def item(seed: int) -> WorkItem:
    policy = Policy.image_only().to_dict()
    return WorkItem(
        key=f"search-{seed:04d}",
        label=f"item {seed}",
        policy=policy,
        seed=seed,
        rungs=(1.0,),
        split="search",
        flops=1.0,
    )


def trainer(images_NCHW: Tensor, *, total_flops: float) -> Trainer:
    return Trainer(
        "hvae",
        preset="tiny",
        size_px=images_NCHW.shape[-1],
        channels=images_NCHW.shape[1],
        policy=Policy.image_only(),
        images_NCHW=images_NCHW,
        plan=TrainingPlan(total_flops=total_flops, batch_size=4),
        seed=0,
    )


def in_training(happening: Callable[[], None], *, times: int, marks: Path) -> Fault:
    """A fault in the first `times` trainings of the victim that have reported once; each leaves a mark."""

    def install() -> None:
        look = Trainer.annealed_look

        def faulty(self: Trainer, *arguments: object, **named: object) -> object:
            if self.seed == VICTIM and self.steps_done > 0 and len(list(marks.iterdir())) < times:
                (marks / str(time.time_ns())).touch()
                happening()
            return look(self, *arguments, **named)  # type: ignore[arg-type]

        Trainer.annealed_look = faulty  # type: ignore[method-assign, assignment]

    return install


def sleep_for_ever() -> None:
    time.sleep(1e6)


def stop_self() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hog_memory() -> None:
    """Takes six more gigabytes, and time for somebody to notice."""
    taken = np.ones(6 * 2**30, dtype=np.uint8)
    time.sleep(60)
    del taken
