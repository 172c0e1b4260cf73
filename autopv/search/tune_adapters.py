"""Ray Tune's four doors (searcher, scheduler, stopper, callback), each a few lines that turn to the executor's hooks.

Ray pickles these objects into snapshots that autopv never reads, so they carry no state across. What goes wrong in the
hooks is held back by them, since Ray would wrap, retry or swallow it; they then end everything.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import Callback, Stopper
from ray.tune.execution import tune_controller as tune_controller_module
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
        with self._hooks.held:
            item = None if self._hooks.exhausted() else self._hooks.suggest(trial_id)
            if item is not None:
                return item_to_config(item)
            return Searcher.FINISHED if self._hooks.exhausted() else None
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback is told of every end, with its cause."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the run folder is the state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("autopv resumes from the run folder, never from Ray's snapshots")


class RungScheduler(_Stateless, FIFOScheduler):
    """Stops an item when the work source says so, and ends workers that hang."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__()
        self._hooks = hooks

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: Ray starts items in the order they came. It asks at each of its steps, ten times a second at least.

        An item named here, whose worker is still starting, would be given the next free worker, and its own be ended:
        with items shorter than the start of a worker, one worker would do all of them.
        """
        with self._hooks.held:
            workers = _workers(tune_controller._tune_controller)
            for tune_id in self._hooks.beat(workers):
                ray.kill(workers[tune_id])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        goes_on = False
        with self._hooks.held:
            goes_on = self._hooks.on_result(trial.trial_id, result)
        # Where that failed the item is neither ended nor gone on with: it is left as it is.
        if self._hooks.held.error is not None:
            return str(TrialScheduler.NOOP)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)


class BudgetStopper(_Stateless, Stopper):
    """Writes down what was spent, and ends an item once the whole budget is; the end goes through the callback.

    asked_to_stop: whether the user did.
    """

    def __init__(self, hooks: Hooks, *, asked_to_stop: Callable[[], bool]) -> None:
        self._hooks, self._asked_to_stop = hooks, asked_to_stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        with self._hooks.held:
            self._hooks.account(trial_id, result)
            # A measurement that is already paid for is taken in by the scheduler first.
            has_news = result.get("fraction") is not None or result.get("halt") is not None
            return not has_news and self._hooks.overdrawn()
        return False

    def stop_all(self) -> bool:
        """Whether to end everything at once; items then stay unfinished, unless the budget is spent."""
        with self._hooks.held:
            return self._asked_to_stop() or self._hooks.must_end()
        return True


class HookCallback(_Stateless, Callback):
    """Tells the hooks how items end, and which lost their worker."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._hooks.held:
            if self._hooks.held.error is None:
                self._hooks.on_end(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._hooks.held:
            self._hooks.on_loss(trial.trial_id, _error_of(trial))


@contextmanager
def any_loss_counts() -> Iterator[None]:
    """A block in which Ray Tune takes every loss of a worker as one.

    Of itself it knows only RayActorError; any other (OutOfMemoryError, by Ray's memory monitor) ends its whole fit().
    """
    before = tune_controller_module.RayActorManager
    tune_controller_module.RayActorManager = _ActorManager
    try:
        yield
    finally:
        tune_controller_module.RayActorManager = before


class _ActorManager(RayActorManager):
    def _actor_start_failed(self, tracked_actor: Any, exception: Exception) -> None:
        super()._actor_start_failed(tracked_actor, _as_loss(exception))

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        super()._actor_task_failed(tracked_actor_task, _as_loss(exception))


def _as_loss(exception: Exception) -> Any:
    is_known = isinstance(exception, RayActorError | RayTaskError)
    return exception if is_known else RayActorError(error_msg=f"{type(exception).__name__}: {exception}")


def _workers(controller: Any) -> dict[str, Any]:
    """By trial id, the actors that hold a device now, those that are still starting included."""
    live = controller._actor_manager._live_actors_to_ray_actors_resources
    return {
        trial.trial_id: live[tracked][0] for trial, tracked in controller._trial_to_actor.items() if tracked in live
    }


def _error_of(trial: Any) -> BaseException | None:
    """Why Ray counts a trial as failed. (`Trial.get_error` looks where only a later snapshot puts it.)"""
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    error = cloudpickle.loads(Path(path).read_bytes())
    return error if isinstance(error, BaseException) else None
