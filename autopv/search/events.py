"""The event log: one JSON line per thing that happened, for the live view, for `status`, and for whoever asks later."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Listener = Callable[[Mapping[str, Any]], None]


class EventLog:
    """Appends events to a file and hands each to a listener."""

    def __init__(self, path: Path, *, listener: Listener | None = None) -> None:
        self._path = path
        self._listener = listener

    def emit(self, event: str, /, **fields: Any) -> None:
        """Writes the event down at once (a crash may cut the last line, which readers skip)."""
        record = {"time": round(time.time(), 3), "event": event, **fields}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._listener is not None:
            self._listener(record)


def read_events(path: Path) -> Iterator[Mapping[str, Any]]:
    """The events of a log, oldest first; lines cut by a crash are skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record
