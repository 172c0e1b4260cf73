"""Runs work items on Ray Tune. Ray executes, nothing else: what is proposed, stopped, charged and kept is ours.

Each launch builds a fresh Tuner; Ray's own snapshots go to a temporary folder and are never read back.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autopv.errors import AutopvError
from autopv.search.events import EventLog
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Spending
from autopv.search.work import Look, Outcome, WorkItem, WorkSource
from autopv.training.checkpoint import FILE_NAME

# Read by Ray when it is imported. uv: without this, Ray would run a fresh `uv run` for each worker.
_RAY_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A budgeted device is reserved: by default Ray lets its workers give way to everything else on the machine.
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}
_OBJECT_STORE_BYTES = 256 * 2**20
# A worker that was killed (or fell over) is replaced this often before its item counts as failed.
_WORKER_RETRIES = 2
_LAUNCH_RETRIES = 3


@dataclass
class _Running:
    item: WorkItem
    looks: list[Look] = field(default_factory=list)
    failure: str | None = None
    stopped: bool = False
    # What this launch's worker did itself, without what it took over from a checkpoint.
    flops: float = 0.0
    training_s: float = 0.0
    evaluation_s: float = 0.0
    num_measured: int = 0


class Executor:
    """A local Ray with a number of one-device workers, up for as long as the `with` block lasts."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        num_workers: int,
        device: str,
        ledger: Ledger,
        spending: Spending,
        events: EventLog,
    ) -> None:
        self._folder = folder
        self._num_workers, self._device = num_workers, device
        self._ledger, self._spending, self._events = ledger, spending, events
        self._scratch: Path | None = None

    def __enter__(self) -> "Executor":
        os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_ENVIRONMENT.items()})
        import ray

        self._scratch = Path(tempfile.mkdtemp(prefix="autopv-ray-"))
        ray.init(
            address="local",
            num_cpus=self._num_workers,
            num_gpus=None if self._device == "gpu" else 0,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            object_store_memory=_OBJECT_STORE_BYTES,
        )
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def run(self, source: WorkSource, *, inputs: object) -> None:
        """Runs the items of a source until it is exhausted or the budget is spent.

        inputs: what every item of this source needs, shipped once through Ray's object store (trial.WorkerInputs).

        Raises:
            KeyboardInterrupt: the user asked to stop; running items stay unfinished in the folder, to be gone on with.
            AutopvError: Ray broke down several times in a row.
        """
        failures = 0
        while True:
            source.begin()
            if source.exhausted():
                return
            hooks = _Hooks(
                source, folder=self._folder, ledger=self._ledger, spending=self._spending, events=self._events
            )
            broke_down = False
            try:
                self._launch(hooks, inputs=inputs)
            except (AutopvError, OSError, TypeError, ValueError, KeyError, AttributeError, AssertionError):
                raise  # ours, or the disk's
            except Exception as error:
                # Ray turns some worker deaths (its own memory monitor, say) into an exception of fit() itself.
                failures, broke_down = failures + 1, True
                self._events.emit("ray_failed", reason=f"{type(error).__name__}: {error}"[:500], attempt=failures)
                if failures > _LAUNCH_RETRIES:
                    raise AutopvError(
                        f"Ray Tune broke down {failures} times, the last time with {type(error).__name__}: {error}. "
                        "What finished is kept; `autopv resume` goes on."
                    ) from error
            finally:
                left_behind = hooks.abandon()
            if left_behind and not broke_down:  # Ray answers SIGINT by returning from fit() as if all were well
                raise KeyboardInterrupt

    def _launch(self, hooks: "_Hooks", *, inputs: object) -> None:
        from ray import tune

        from autopv.search.trial import Trial
        from autopv.search.tune_adapters import BudgetStopper, HookCallback, RungScheduler, SourceSearcher

        resources = {"cpu": 1, "gpu": 1} if self._device == "gpu" else {"cpu": 1}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(Trial, inputs=inputs), resources),
            tune_config=tune.TuneConfig(
                metric="distance",
                mode="min",
                search_alg=SourceSearcher(hooks),
                scheduler=RungScheduler(hooks),
                num_samples=-1,
                max_concurrent_trials=self._num_workers,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="autopv",
                storage_path=str(self._scratch),
                verbose=0,
                stop=BudgetStopper(hooks),
                callbacks=[HookCallback(hooks)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=_WORKER_RETRIES),
            ),
        )
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        tuner.fit()


class _Hooks:
    """The driver's side of a launch: what Ray's searcher, scheduler, stopper and callback all turn to."""

    def __init__(
        self, source: WorkSource, *, folder: RunFolder, ledger: Ledger, spending: Spending, events: EventLog
    ) -> None:
        self._folder = folder
        self._source, self._ledger, self._spending, self._events = source, ledger, spending, events
        self._running: dict[str, _Running] = {}

    def suggest(self, tune_id: str) -> WorkItem | None:
        item = self._source.next_item()
        if item is None:
            return None
        self._ledger.grant(item.key, phase=self._source.phase)
        self._spending.start(item.key, cost_s=self._spending.cost_s(item))
        self._running[tune_id] = _Running(item)
        self._events.emit("item_started", phase=self._source.phase, key=item.key, label=item.label, seed=item.seed)
        return item

    def exhausted(self) -> bool:
        return self._source.exhausted()

    def overdrawn(self) -> bool:
        return self._spending.overdrawn()

    def account(self, tune_id: str, result: Mapping[str, Any]) -> None:
        """Writes down what the worker did since its last report."""
        running = self._running.get(tune_id)
        if running is not None:
            training_s, evaluation_s = result["training_s"], result["evaluation_s"]
            self._ledger.record_usage(running.item.key, training_s=training_s, evaluation_s=evaluation_s)
            running.flops += result["flops_done"]
            running.training_s += training_s
            running.evaluation_s += evaluation_s
            running.num_measured += evaluation_s > 0

    def on_result(self, tune_id: str, result: Mapping[str, Any]) -> bool:
        """Takes one report of a worker; returns whether its item goes on."""
        running = self._running.get(tune_id)
        if running is None:
            return False
        item = running.item
        if result.get("failure"):
            running.failure = result["failure"]
            return False
        if result.get("fraction") is None:
            self._events.emit("progress", key=item.key, label=item.label, progress=round(result["progress"], 4))
            return True
        look = Look(
            fraction=result["fraction"], distance=result["distance"], steps=result["steps"], flops=result["flops"]
        )
        running.looks.append(look)
        goes_on = self._source.judge(item, look)
        running.stopped = not goes_on
        self._events.emit(
            "look",
            phase=self._source.phase,
            key=item.key,
            label=item.label,
            fraction=look.fraction,
            distance=round(look.distance, 4),
            steps=look.steps,
            goes_on=goes_on,
            spent_s=round(self._ledger.spent_s(), 1),
        )
        return goes_on

    def on_end(self, tune_id: str, *, error: str | None) -> None:
        running = self._running.pop(tune_id, None)
        if running is None:
            return
        item, look = running.item, running.looks[-1] if running.looks else None
        failure = error or running.failure
        if failure is not None:
            outcome = Outcome(status="failed", look=look, failure=failure)
        elif look is not None and look.fraction >= item.rungs[-1]:
            outcome = Outcome(status="complete", look=look)
        elif running.stopped:
            outcome = Outcome(status="stopped", look=look)
        else:
            outcome = Outcome(status="unpaid", look=look, failure="the budget was spent before this run could end")
        self._source.finish(item, outcome)
        if outcome.status == "stopped":  # nothing will sample from it or go on with it
            (self._folder.item(item.key) / FILE_NAME).unlink(missing_ok=True)
        self._ledger.release(item.key)
        self._spending.end(item.key)
        self._spending.learn(
            training_s=running.training_s,
            flops=running.flops,
            evaluation_s=running.evaluation_s,
            num_looks=running.num_measured,
        )
        self._events.emit(
            "item_ended",
            phase=self._source.phase,
            key=item.key,
            label=item.label,
            status=outcome.status,
            failure=outcome.failure,
            distance=None if look is None else round(look.distance, 4),
            spent_s=round(self._ledger.spent_s(), 1),
        )

    def on_recover(self, tune_id: str) -> None:
        running = self._running.get(tune_id)
        if running is not None:
            self._events.emit("worker_lost", key=running.item.key, label=running.item.label)

    def beat(self) -> None:
        self._ledger.beat()

    def abandon(self) -> bool:
        """Stops charging for items that Ray left behind; returns whether there were any."""
        left = bool(self._running)
        for running in self._running.values():
            self._ledger.release(running.item.key)
            self._spending.end(running.item.key)
        self._running.clear()
        return left
