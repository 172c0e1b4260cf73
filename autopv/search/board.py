"""The search as TensorBoard sees it: event files that are a pure function of the event log.

Because they are, an interruption, a full disk or a crash in the middle of a record loses nothing and doubles nothing:
each file is at any time a beginning of what the log implies, and is written on from where it ends.
"""

import struct
from collections.abc import Mapping
from typing import Any

from autopv.search.events import Listener, read_events
from autopv.search.run_folder import RunFolder

FOLDER = "tensorboard"
# TensorBoard takes any file with `tfevents` in its name; one fixed name per item, since nothing is ever begun anew.
FILE_NAME = "events.out.tfevents.autopv"
JOB = "job"
_FILE_VERSION = "brain.Event:2"
_PERCENT = 100


class Board:
    """Writes a job's events into RUN/tensorboard as they come, and hands each on to another listener.

    Each item is a run of its own: its policy as text, and its distance by training steps and by percent of its
    compute. The run `job` shows the best distance of the search by device-seconds spent, and the device-seconds spent
    by items ended. Files are opened for each write, so that thousands of items hold no handle.
    """

    def __init__(self, folder: RunFolder, *, listener: Listener | None = None) -> None:
        self._folder, self._listener = folder.path / FOLDER, listener
        self._implied: dict[str, bytearray] = {}
        self._seen: set[tuple[str, float]] = set()
        self._described: set[str] = set()
        self._best: float | None = None
        self._num_ended = 0
        for event in read_events(folder.events):
            self._note(event)
        for run in self._implied:
            self._write(run, check=True)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes an event that the log has already written down."""
        for run in self._note(event):
            self._write(run)
        if self._listener is not None:
            self._listener(event)

    def _note(self, event: Mapping[str, Any]) -> list[str]:
        """Adds what the event implies to the runs' records; returns which runs those are."""
        kind = event["event"]
        if kind == "item_started" and event["key"] not in self._described:
            self._described.add(event["key"])
            return [self._add(event["key"], event, step=0, text={"policy": _item_text(event)})]
        if kind == "look":
            return self._note_look(event)
        if kind == "item_ended":
            self._num_ended += 1
            return [self._add(JOB, event, step=self._num_ended, scalars={"spent_s/by_items_ended": event["spent_s"]})]
        return []

    def _note_look(self, event: Mapping[str, Any]) -> list[str]:
        key, fraction, distance = event["key"], event["fraction"], event["distance"]
        if (key, fraction) in self._seen:  # shown again by a worker that took over after an interruption
            return []
        self._seen.add((key, fraction))
        self._add(key, event, step=event["steps"], scalars={"distance/by_steps": distance})
        runs = [
            self._add(key, event, step=round(_PERCENT * fraction), scalars={"distance/by_percent_of_compute": distance})
        ]
        improves = self._best is None or distance < self._best
        if event["phase"] == "search" and fraction >= 1 and improves:  # verification measures on another split
            self._best = distance
            step = round(event["spent_s"])
            runs.append(self._add(JOB, event, step=step, scalars={"best_distance/by_spent_s": distance}))
        return runs

    def _add(
        self,
        run: str,
        event: Mapping[str, Any],
        *,
        step: int,
        scalars: Mapping[str, float] | None = None,
        text: Mapping[str, str] | None = None,
    ) -> str:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        at = event["time"]
        if run not in self._implied:
            self._implied[run] = bytearray(_record(Event(wall_time=at, file_version=_FILE_VERSION)))
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in (scalars or {}).items()]
        values += [_text_value(tag, words) for tag, words in (text or {}).items()]
        self._implied[run] += _record(Event(wall_time=at, step=step, summary=Summary(value=values)))
        return run

    def _write(self, run: str, *, check: bool = False) -> None:
        """Brings a run's file up to what is implied; what cannot be written now is written with the next event.

        check: whether to compare what stands in the file already, which is replaced where it differs.
        """
        path, implied = self._folder / run / FILE_NAME, self._implied[run]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if check and path.exists() and not implied.startswith(path.read_bytes()):
                path.unlink()
            with path.open("ab") as file:
                file.write(implied[file.tell() :])
        except OSError:
            # A search does not end for want of a picture of it; where the disk is full, its own log says so.
            return


def _item_text(event: Mapping[str, Any]) -> str:
    """What an item is, as a Markdown table."""
    facts = {name: event[name] for name in ("policy", "label", "phase", "seed") if name in event}
    lines = [f"| {name} | `{str(value).replace('|', '/')}` |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _text_value(tag: str, text: str) -> Any:
    from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboardX.proto.tensor_pb2 import TensorProto
    from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
    tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode()], tensor_shape=shape)
    return Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)


def _record(event: Any) -> bytes:
    """An event as TensorBoard stores it: length, checksum of the length, event, checksum of the event."""
    from tensorboardX.record_writer import masked_crc32c

    data: bytes = event.SerializeToString(deterministic=True)
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
