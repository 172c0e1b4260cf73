"""What TensorBoard would read from a folder of event files, read without it."""

import struct

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def read_events(folder):
    """(run, tag, step, value) in the order of runs, files and records; the value of a picture is its PNG."""
    found = []
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, start = path.read_bytes(), 0
        while start < len(data):
            (length,) = struct.unpack_from("<Q", data, start)
            record = data[start + 12 : start + 12 + length]
            assert len(record) == length, "a record is cut off"
            assert struct.unpack_from("<I", data, start + 8)[0] == masked_crc32c(data[start : start + 8])
            assert struct.unpack_from("<I", data, start + 12 + length)[0] == masked_crc32c(record)
            start += length + 16
            event = Event.FromString(record)
            for value in event.summary.value:
                content = value.image.encoded_image_string or value.simple_value
                found.append((path.parent.relative_to(folder).as_posix(), value.tag, event.step, content))
    return found
