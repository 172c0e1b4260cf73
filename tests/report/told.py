"""Events of a made-up search, in the order and with the fields of a real one."""

from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]

PLANNED: Event = {
    "time": 1000.0,
    "event": "planned",
    "budget": "10cpu-min",
    "num_workers": 2,
    "trial_steps": 400,
    "trial_s": 25.2,
    "num_trials": 14,
    "num_blocks": 1,
    "num_seeds": 3,
    "num_arms": 8,
    "rungs": [0.5, 1.0],
    "reserve_s": 210.0,
    "verdict_needs_s": 1900,
    "train_steps": None,
    "train_needs_s": None,
    "given": [],
    "given_left_out": [],
    "num_images": 300,
    "skipped": ["a/broken.png: truncated"],
    "num_defective": None,
    "classes": None,
    "max_frames": None,
    "left_out_ops": [],
    "splits": [180, 60, 60],
    "metric": {"name": "fd_lite0", "input_size_px": 64, "num_images": 60},
    "metric_reason": "as asked for",
}


class Story:
    """Makes events three seconds apart, during which two workers spend six device-seconds."""

    def __init__(self) -> None:
        self.time_s, self.spent_s, self.phase = 1000.0, 0.0, "search"
        self.events: list[Event] = []

    def tell(self, event: str, /, **fields: Any) -> "Story":
        self.time_s += 3.0
        self.spent_s += 6.0
        self.events.append({"time": self.time_s, "event": event, **fields})
        return self

    def planned(self, **fields: Any) -> "Story":
        plan = {**PLANNED, **fields}
        del plan["event"], plan["time"]
        self.tell("planned", **plan)
        return self.launched(budget=plan["budget"], num_workers=plan["num_workers"])

    def launched(self, *, budget: str, num_workers: int) -> "Story":
        return self.tell("launched", budget=budget, num_workers=num_workers, spent_s=self.spent_s)

    def search(self, *, reserve_s: float = 210.0) -> "Story":
        self.phase = "search"
        return self.tell("phase", phase="search", arms=None, num_blocks=None, reserve_s=reserve_s, floor=100.0,
                         spent_s=self.spent_s)  # fmt: skip

    def verify(self, *arms: str, num_blocks: int = 3) -> "Story":
        self.phase = "verify"
        return self.tell("phase", phase="verify", arms=list(arms), num_blocks=num_blocks, reserve_s=0.0, floor=100.0,
                         spent_s=self.spent_s)  # fmt: skip

    def start(self, key: str, *, label: str | None = None, seed: int = 5, continues: str | None = None) -> "Story":
        return self.tell("item_started", phase=self.phase, key=key, label=label or key, seed=seed, continues=continues,
                         policy="image-only")  # fmt: skip

    def progress(self, key: str, progress: float) -> "Story":
        return self.tell("progress", key=key, label=key, progress=progress, spent_s=self.spent_s)

    def look(self, key: str, *, distance: float, fraction: float = 1.0, goes_on: bool = False) -> "Story":
        return self.tell("look", phase=self.phase, key=key, label=self._label(key), fraction=fraction,
                         distance=distance, steps=10, goes_on=goes_on, spent_s=self.spent_s)  # fmt: skip

    def end(self, key: str, status: str, *, failure: str | None = None, **fields: Any) -> "Story":
        return self.tell("item_ended", phase=self.phase, key=key, label=self._label(key), seed=self._seed(key),
                         status=status, failure=failure, distance=None, spent_s=self.spent_s, **fields)  # fmt: skip

    def lose(self, key: str, *, reason: str) -> "Story":
        return self.tell("worker_lost", key=key, label=self._label(key), reason=reason, goes_on=True)

    def whole(self, key: str, *, distance: float, label: str | None = None, seed: int = 5) -> "Story":
        """A trial or run from its start to full compute."""
        return self.start(key, label=label, seed=seed).look(key, distance=distance).end(key, "complete")

    def _label(self, key: str) -> str:
        return next((str(e["label"]) for e in self.events if e["event"] == "item_started" and e["key"] == key), key)

    def _seed(self, key: str) -> int:
        return next((int(e["seed"]) for e in self.events if e["event"] == "item_started" and e["key"] == key), 5)


def searched() -> Story:
    """A search with two complete trials, one stopped, one failed, two running."""
    story = Story().planned().search()
    story.whole("controls-0000", label="image-only", distance=600.0)
    story.whole("search-0000", label="gaussian-blur", distance=550.0)
    story.start("search-0001").look("search-0001", fraction=0.5, distance=900.0).end("search-0001", "stopped")
    story.start("search-0002").end("search-0002", "failed", failure="the loss is nan at step 17")
    story.start("search-0003").look("search-0003", fraction=0.5, distance=700.0, goes_on=True)
    story.progress("search-0003", 0.71)
    return story.start("search-0004").progress("search-0004", 0.22)


def verified(*, num_blocks: int) -> Story:
    """A verification of three arms with so many complete blocks, and one run more."""
    story = searched().verify("image-only", "gaussian-blur", "search-0007")
    for block in range(num_blocks):
        for arm, distance in (("image-only", 600.0), ("gaussian-blur", 500.0), ("search-0007", 520.0)):
            story.whole(
                f"verify-{arm}-{block}", label=arm, seed=block, distance=distance + 7 * block + len(arm) * block
            )
    return story.start(f"verify-image-only-{num_blocks}", label="image-only", seed=num_blocks)
