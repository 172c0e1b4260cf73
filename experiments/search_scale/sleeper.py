"""What a worker runs to measure Ray alone: trials that sleep and report distances drawn at random."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

from ray import tune

from autopv.search.work import WorkItem


class Sleeper(tune.Trainable):
    """Sleeps its way from rung to rung, with reports of progress between."""

    def setup(self, config: dict[str, Any], *, inputs: dict[str, Any], silence_s: float) -> None:
        del silence_s  # for the watchdog of real trials
        # A worker that is used again is not set up again.
        (Path(inputs["starts"]) / str(os.getpid())).touch()
        self._trial_s, self._num_reports = inputs["trial_s"], inputs["num_reports"]
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        rungs = (0.0, *self._item.rungs)
        looks, part = divmod(self._num_steps, self._num_reports + 1)
        self._num_steps += 1
        is_look = part == self._num_reports
        share = (rungs[looks + 1] - rungs[looks]) / (self._num_reports + 1)
        started_s = time.monotonic()
        time.sleep(share * self._trial_s)
        self._done += share
        return {
            "fraction": rungs[looks + 1] if is_look else None,
            "distance": self._chance.gauss(300, 30) if is_look else None,
            "failure": None,
            "progress": self._done,
            "steps": self._num_steps,
            "flops": self._done,
            "flops_done": share,
            "training_s": time.monotonic() - started_s,
            "rendering_s": 0.0,
            "evaluation_s": 0.0,
        }

    def _begin(self, config: dict[str, Any]) -> None:
        self._item = WorkItem(**json.loads(config["item"]))
        self._chance = random.Random(self._item.key)
        self._num_steps, self._done = 0, 0.0
