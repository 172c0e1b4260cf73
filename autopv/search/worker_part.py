"""What one worker of a training by many does, and what it says to the driver."""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError

from autopv.search.train_adapters import say
from autopv.training.checkpoint_file import FILE_NAME, remove_parts
from autopv.training.course import Course, LookRecord
from autopv.training.full import train_fully
from autopv.training.full_request import TrainRequest, TrainResult
from autopv.training.listener import Beginning, FullProgress, TrainingListener
from autopv.training.team import Team


@dataclass(frozen=True)
class Part:
    """What a worker is sent. folder: the driver's, in which relative names (of a metric's network, say) are found."""

    request: TrainRequest
    relay: Any
    folder: str


def train_part(part: Part) -> TrainResult | None:
    """What the training came to, in every worker alike; None if it was asked to stop."""
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
        say(self._relay, "note", text)

    def began(self, beginning: Beginning) -> None:
        say(self._relay, "began", beginning)

    def progress(self, progress: FullProgress) -> None:
        say(self._relay, "progress", progress)

    def looked(self, look: LookRecord, *, course: Course) -> None:
        say(self._relay, "looked", look, course=course)
