"""Runs work items on Ray Tune. Ray executes, nothing else: what is proposed, stopped, charged and kept is ours.

Each launch builds a fresh Tuner; Ray's own snapshots go to a temporary folder and are never read back.
"""

import logging

from autopv.errors import AutopvError
from autopv.search.events import EventLog
from autopv.search.hooks import Held, Hooks
from autopv.search.ledger import Ledger
from autopv.search.ray_session import RaySession
from autopv.search.run_folder import RunFolder
from autopv.search.spending import Spending
from autopv.search.storage import storage_errors, storage_reason
from autopv.search.watchdog import silence_limit_s
from autopv.search.work import WorkSource
from autopv.training.interrupts import DeferredInterrupts

# Ray is launched again this often in a row without any worker having reported in between.
_MOST_BREAKDOWNS = 3


class Executor:
    """Workers on Ray, each with a share of a device, for as long as the `with` block lasts.

    address: None starts a Ray of our own on this machine; "auto" or host:port joins a cluster that runs already.
    share: the part of a device that each worker holds (0 < share <= 1).
    trainable: what Ray runs in a worker; `trial.Trial`, if not given.

    Raises (on entering):
        InputError: no cluster answers at the address, or it lacks the budget's kind of device.
        AutopvError: Ray does not start.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        num_workers: int,
        device: str,
        ledger: Ledger,
        spending: Spending,
        events: EventLog,
        address: str | None = None,
        share: float = 1.0,
        trainable: type | None = None,
    ) -> None:
        self._folder, self._trainable = folder, trainable
        self._num_workers, self._device, self._share = num_workers, device, share
        self._ledger, self._spending, self._events = ledger, spending, events
        self._ray = RaySession(address=address, num_workers=num_workers, device=device, share=share, ledger=ledger)

    def __enter__(self) -> "Executor":
        self._ray.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.stop()

    def run(self, source: WorkSource, *, inputs: object) -> None:
        """Runs the items of a source until it is exhausted or the budget is spent.

        inputs: what every item of this source needs, shipped once through Ray's object store (trial.WorkerInputs).

        Raises:
            KeyboardInterrupt: the user asked to stop; running items stay unfinished in the folder, to be gone on with.
            StorageError: the disk is full, here or where a worker runs.
            AutopvError: Ray broke down several times in a row.
        """
        with storage_errors(self._folder):
            self._run(source, inputs=inputs)

    def _run(self, source: WorkSource, *, inputs: object) -> None:
        num_breakdowns = 0
        while True:
            source.begin()
            if source.exhausted():
                return
            hooks = Hooks(
                source,
                folder=self._folder,
                ledger=self._ledger,
                spending=self._spending,
                events=self._events,
                share=self._share,
                silence_s=silence_limit_s(self._spending.speed),
            )
            breakdown = Held()  # Ray's own: what goes wrong in our code is held back by the hooks
            left_behind = False
            try:
                self._launch(hooks, inputs=inputs, breakdown=breakdown)
            finally:
                with hooks.held:
                    left_behind = hooks.abandon()
            if hooks.held.error is not None:
                raise hooks.held.error
            if breakdown.error is not None:
                num_breakdowns = 1 if hooks.made_progress else num_breakdowns + 1
                self._recover(breakdown.error, attempt=num_breakdowns)
            elif left_behind:
                raise KeyboardInterrupt  # by a signal that Ray heard and we did not

    def _recover(self, error: Exception, *, attempt: int) -> None:
        """Starts Ray anew after it broke down."""
        if storage_reason(error) is not None:
            raise error
        if attempt > _MOST_BREAKDOWNS:
            raise AutopvError(
                f"Ray Tune broke down {attempt} times in a row, the last time with {type(error).__name__}: {error}. "
                f"What finished is kept; go on by `autopv resume {self._folder.path}`."
            ) from error
        self._events.emit("ray_failed", reason=f"{type(error).__name__}: {error}"[:500], attempt=attempt)
        self._ray.restart()

    def _launch(self, hooks: Hooks, *, inputs: object, breakdown: Held) -> None:
        from ray import tune

        from autopv.search.trial import Trial
        from autopv.search.tune_adapters import (
            BudgetStopper,
            HookCallback,
            RungScheduler,
            SourceSearcher,
            any_loss_counts,
        )

        silence_s = silence_limit_s(self._spending.speed)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is told by the event log
        with DeferredInterrupts() as interrupts, breakdown, any_loss_counts():
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(self._trainable or Trial, inputs=inputs, silence_s=silence_s),
                    {self._device: self._share},
                ),
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
                    storage_path=str(self._ray.scratch),
                    verbose=0,
                    stop=BudgetStopper(hooks, asked_to_stop=lambda: interrupts.asked),
                    callbacks=[HookCallback(hooks)],
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    # The hooks hand out again what lost its worker, and count how often.
                    failure_config=tune.FailureConfig(max_failures=0),
                ),
            )
            try:
                tuner.fit()
            except KeyboardInterrupt:  # the second one
                self._ray.at_once = True
                raise
