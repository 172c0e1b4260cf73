"""Ray Tune's four doors (searcher, scheduler, stopper, callback), each a few lines that turn to the executor's hooks.

Ray pickles these objects into snapshots that autopv never reads, so they carry no state across.
"""

from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from autopv.search.hooks import Hooks
from autopv.search.trial import item_to_config


class _Stateless:
    """An object that pickles to nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SourceSearcher(_Stateless, Searcher):
    """Proposes what the work source hands out."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__(metric="distance", mode="min")
        self._hooks = hooks

    def suggest(self, trial_id: str) -> Any:
        if self._hooks.exhausted():
            return Searcher.FINISHED
        item = self._hooks.suggest(trial_id)
        if item is None:
            return Searcher.FINISHED if self._hooks.exhausted() else None
        return item_to_config(item)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback is told of every end, with its cause."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("autopv resumes from the run folder, never from Ray's snapshots")


class RungScheduler(_Stateless, FIFOScheduler):
    """Stops an item when the work source says so."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__()
        self._hooks = hooks

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = self._hooks.on_result(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class BudgetStopper(_Stateless, Stopper):
    """Writes down what was spent, and ends an item once the whole budget is; the end goes through the callback."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._hooks.account(trial_id, result)
        # A measurement that is already paid for is taken in by the scheduler first.
        return result.get("fraction") is None and self._hooks.overdrawn()

    def stop_all(self) -> bool:
        """Whether to end everything at once: workers (still starting, say) have not reported in time."""
        return self._hooks.overdue()


class HookCallback(_Stateless, Callback):
    """Tells the hooks how items end, and keeps the ledger's heart beating."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._hooks.beat()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._hooks.on_recover(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._hooks.on_end(trial.trial_id, error=None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        cause = trial.get_pickled_error() or trial.get_error() or "the worker was lost"
        self._hooks.on_end(trial.trial_id, error=str(cause).strip().splitlines()[-1][:300])
