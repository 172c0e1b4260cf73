"""Events as JSON, one object per line: the same records as in events.jsonl, for programs that follow a job."""

import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO


class EventLines:
    """A view that writes every event as it is. `autopv.search.events.EVENTS` says what the fields mean."""

    def __init__(self, *, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing: every line was flushed."""

    def take(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        print(json.dumps(event), file=self._stream, flush=True)

    def tick(self) -> None:
        """Nothing: there is nothing to refresh."""

    def note(self, text: str) -> None:
        """Nothing: only events are written."""
