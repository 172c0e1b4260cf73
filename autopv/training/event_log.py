"""TensorBoard event files of a training, which never run ahead of its checkpoint."""

import io
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopv.errors import StorageError


class EventLog:
    """Scalars and pictures by run (a sub-folder) and step, kept in memory until `flush`.

    Flushed right after each checkpoint, the files hold nothing that a resumed training will do again, so that it goes
    on where they end. Every launch appends files of its own.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: dict[str, list[Any]] = {}
        self._writers: dict[str, Any] = {}

    def scalars(self, run: str, values: Mapping[str, float], *, step: int) -> None:
        """Notes one point of each named curve."""
        from tensorboardX.proto.summary_pb2 import Summary

        self._note(run, [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()], step=step)

    def picture(self, run: str, tag: str, picture_HWC: NDArray[np.uint8], *, step: int) -> None:
        """Notes one picture, (H, W, 3)."""
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        png = io.BytesIO()
        Image.fromarray(picture_HWC).save(png, format="PNG")
        height, width, channels = picture_HWC.shape
        image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue())
        self._note(run, [Summary.Value(tag=tag, image=image)], step=step)

    def flush(self) -> None:
        """Writes what has been noted.

        Raises:
            StorageError: it could not be written.
        """
        events, self._events = self._events, {}
        try:
            for run, noted in events.items():
                writer = self._writer(run, first_step=noted[0].step)
                for event in noted:
                    writer.write_event(event)
                writer.flush()
        except OSError as error:
            raise StorageError(f"the log in {self._folder} could not be written ({error})") from error

    def close(self) -> None:
        """Closes the files; what was not flushed is dropped."""
        for writer in self._writers.values():
            with suppress(OSError):  # a full disk, which `flush` has told of
                writer.close()
        self._writers.clear()

    def _note(self, run: str, values: list[Any], *, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._events.setdefault(run, []).append(event)

    def _writer(self, run: str, *, first_step: int) -> Any:
        if run not in self._writers:
            from tensorboardX.event_file_writer import EventsWriter

            folder = self._folder / run
            folder.mkdir(parents=True, exist_ok=True)
            # Files are named by the second they are made in: a quick resume must not overwrite the one before.
            self._writers[run] = EventsWriter(str(folder / "events"), f".{first_step:08d}")
        return self._writers[run]
