"""What Ray Train calls back in its controller, a process that imports nothing of ours but this and the errors."""

import pickle
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import UserCallback
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from autopv.errors import AutopvError


class LeanTrainer(TorchTrainer):
    """Ray's trainer with fewer helpers: none for Ray Data, and none to clear up in a Ray that goes with its driver."""

    def __init__(self, *arguments: Any, is_own_ray: bool, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._left_out = (DatasetsCallback, *((PlacementGroupCleanerCallback,) if is_own_ray else ()))

    def _create_default_callbacks(self) -> list[Any]:
        return [made for made in super()._create_default_callbacks() if not isinstance(made, self._left_out)]


class Losses(UserCallback):
    """Hears, in Ray's controller, why workers failed: our own errors end the training, of others the driver is told."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raises: AutopvError, one that a worker has raised: it would be raised again."""
        del run_context
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, AutopvError):
                raise error
        say(self._relay, "lost", loss_text(worker_exceptions))


def say(relay: Any, name: str, *arguments: object, **named: object) -> None:
    """Nothing; the relay keeps for the driver which method of its listener to call, and with what (or `lost`)."""
    ray.get(relay.say.remote(pickle.dumps((name, arguments, named))))


def loss_text(worker_exceptions: Mapping[int, Exception]) -> str:
    """Which worker was lost, and why; where one has died, the others' lost connections are not told."""
    died = {rank: error for rank, error in worker_exceptions.items() if _has_died(error)}
    if died:
        return f"Worker {' and '.join(str(rank + 1) for rank in sorted(died))} was lost (killed, or out of memory)"
    rank, error = min(worker_exceptions.items())
    lines = str(error).strip().splitlines() or [""]
    return f"Worker {rank + 1} failed ({type(error).__name__}: {lines[-1][:300]})"


def _has_died(error: Exception) -> bool:
    cause = getattr(error, "health_check_failure", error)
    return isinstance(cause, RayActorError)
