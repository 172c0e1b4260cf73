"""Runs work items on Ray Tune. Ray executes, nothing else: what is proposed, stopped, charged and kept is ours.

Each launch builds a fresh Tuner; Ray's own snapshots go to a temporary folder and are never read back.
"""

import logging
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path

from autopv.errors import AutopvError
from autopv.search.events import EventLog
from autopv.search.hooks import Hooks
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Spending
from autopv.search.work import WorkSource

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
    "TUNE_DISABLE_SIGINT_HANDLER": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
}
_OBJECT_STORE_BYTES = 256 * 2**20
# A worker that was killed (or fell over) is replaced this often before its item counts as failed.
_WORKER_RETRIES = 2
_LAUNCH_RETRIES = 3


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
        trainable: type | None = None,
    ) -> None:
        """trainable: what Ray runs in a worker; trial.Trial, if not given."""
        self._folder, self._trainable = folder, trainable
        self._num_workers, self._device = num_workers, device
        self._ledger, self._spending, self._events = ledger, spending, events
        self._scratch: Path | None = None

    def __enter__(self) -> "Executor":
        os.environ.update({name: os.environ.get(name, value) for name, value in _RAY_ENVIRONMENT.items()})
        import ray

        sigterm = signal.getsignal(signal.SIGTERM)
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
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # Ray's own handler leaves without closing anything
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
            hooks = Hooks(
                source, folder=self._folder, ledger=self._ledger, spending=self._spending, events=self._events
            )
            broke_down = stopped = False
            try:
                stopped = self._launch(hooks, inputs=inputs)
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
            if stopped or (left_behind and not broke_down):
                raise KeyboardInterrupt

    def _launch(self, hooks: Hooks, *, inputs: object) -> bool:
        """Whether the user asked to stop while Ray ran."""
        from ray import tune

        from autopv.search.trial import Trial
        from autopv.search.tune_adapters import BudgetStopper, HookCallback, RungScheduler, SourceSearcher

        resources = {"cpu": 1, "gpu": 1} if self._device == "gpu" else {"cpu": 1}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(self._trainable or Trial, inputs=inputs), resources),
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
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by the event log
        if threading.current_thread() is not threading.main_thread():
            tuner.fit()
            return False
        # Ray answers SIGINT by returning from fit() as if all were well, also between two items, when nothing is left
        # behind. Only when it was called does its handler put back the one before it.
        before = signal.getsignal(signal.SIGINT)
        try:
            tuner.fit()
            return signal.getsignal(signal.SIGINT) is before
        finally:
            signal.signal(signal.SIGINT, before)
