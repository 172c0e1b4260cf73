"""What one worker of a training by many does, and how the first of them and the driver hear of each other."""

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import UserCallback

from autopv.errors import AutopvError
from autopv.training.checkpoint_file import FILE_NAME, remove_parts
from autopv.training.course import Course, LookRecord
from autopv.training.full import train_fully
from autopv.training.full_request import TrainRequest, TrainResult
from autopv.training.listener import Beginning, FullProgress, TrainingListener
from autopv.training.team import Team

Message = tuple[str, tuple[Any, ...], Mapping[str, Any]]
"""The name of a listener's method, and what it is called with."""


class Relay:
    """An actor beside the driver: keeps what the first worker says until the driver asks, and the driver's wish to
    stop until it comes.
    """

    def __init__(self) -> None:
        self._said: list[Message] = []
        self._stop = asyncio.Event()
        self._num_beginnings = 0

    async def say(self, message: Message) -> None:
        """Keeps it for the driver."""
        self._said.append(message)

    async def heard(self) -> list[Message]:
        """What has been said since the last time, in order."""
        said, self._said = self._said, []
        return said

    async def begin(self) -> bool:
        """Whether workers have begun in this launch before."""
        self._num_beginnings += 1
        return self._num_beginnings > 1

    async def ask_to_stop(self) -> None:
        """Lets `asked_to_stop` return."""
        self._stop.set()

    async def asked_to_stop(self) -> None:
        """Returns once the workers are to stop."""
        await self._stop.wait()


@dataclass(frozen=True)
class Part:
    """What a worker is sent. folder: the driver's, in which relative names (of a metric's network, say) are found."""

    request: TrainRequest
    relay: Any
    folder: str


def train_part(settings: Mapping[str, Part]) -> TrainResult | None:
    """What the training came to, in every worker alike; None if it was asked to stop."""
    part = settings["part"]
    with suppress(OSError):  # on another machine of a cluster it may not be there
        os.chdir(part.folder)
    team = Team.joined()
    request = team.told(lambda: _begun(part))
    stop = threading.Event()
    listener = None
    if team.is_first:
        listener = _Relayed(part.relay)
        threading.Thread(target=_wait, args=(part.relay, stop), daemon=True).start()
    try:
        return train_fully(request, listener=listener, team=team, asked_to_stop=stop.is_set)
    except KeyboardInterrupt:
        return None


def _begun(part: Part) -> TrainRequest:
    """What is to be trained now: after workers were lost, on from what they have saved."""
    request = part.request
    if ray.get(part.relay.begin.remote()) and not request.resume:
        if (request.out / FILE_NAME).exists():
            return replace(request, resume=True)
        remove_parts(request.out)
    return request


def _wait(relay: Any, stop: threading.Event) -> None:
    with suppress(RayError):  # the driver is gone, and this process will be too
        ray.get(relay.asked_to_stop.remote())
        stop.set()


class _Relayed(TrainingListener):
    """Passes on what it hears to the driver."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def note(self, text: str) -> None:
        self._say("note", text)

    def began(self, beginning: Beginning) -> None:
        self._say("began", beginning)

    def progress(self, progress: FullProgress) -> None:
        self._say("progress", progress)

    def looked(self, look: LookRecord, *, course: Course) -> None:
        self._say("looked", look, course=course)

    def _say(self, name: str, *arguments: object, **named: object) -> None:
        ray.get(self._relay.say.remote((name, arguments, named)))


class Losses(UserCallback):
    """Hears, in Ray's controller, why workers failed: our own errors end the training, of others the user is told."""

    def __init__(self, relay: Any) -> None:
        self._relay = relay

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        """Raises: AutopvError, one that a worker has raised: it would be raised again."""
        del run_context
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, AutopvError):
                raise error
        text = f"{loss_text(worker_exceptions)}: all workers start again from the last checkpoint."
        ray.get(self._relay.say.remote(("note", (text,), {})))


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
    return isinstance(cause, ray.exceptions.RayActorError)
