"""Processes of this machine, found and ended; by the lists of Linux (elsewhere only those whose numbers are known)."""

import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LIST = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process: its number, which is given again to others later, and when it started."""

    pid: int
    started: int


def process(pid: int) -> Process | None:
    """The process that has this number now, if there is one (and the lists of Linux are there)."""
    stat = _stat(pid)
    return None if stat is None else Process(pid, stat[1])


def descendants(pids: Iterable[int]) -> list[Process]:
    """Those processes and all that descend from them, children first."""
    table = {pid: stat for pid in _pids() if (stat := _stat(pid)) is not None}
    if not table:
        return [Process(pid, 0) for pid in pids]
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found, front = [], [pid for pid in pids if pid in table]
    while front:
        found += front
        front = [child for pid in front for child in children.get(pid, ())]
    return [Process(pid, table[pid][1]) for pid in reversed(found)]


def mentioning(text: str) -> list[Process]:
    """The processes other than this one whose command line holds the text; of Ray's also by the files they hold open.

    Ray's helpers give themselves titles in place of their command lines.
    """
    wanted, found = os.fsencode(text), []
    for pid in _pids():
        with suppress(OSError):
            line = (_LIST / str(pid) / "cmdline").read_bytes()
            named = wanted in line or (line.startswith(b"ray::") and text in _open_files(pid))
            if pid != os.getpid() and named:
                stat = _stat(pid)
                found += [] if stat is None else [Process(pid, stat[1])]
    return found


def kill(processes: Iterable[Process]) -> None:
    """Ends them at once (SIGKILL); those that have ended already, or whose number is another's by now, are let be."""
    for process in processes:
        stat = _stat(process.pid)
        if process.started == 0 or (stat is not None and stat[1] == process.started):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def _open_files(pid: int) -> str:
    """The paths of what a process holds open, in one text."""
    paths = []
    for entry in (_LIST / str(pid) / "fd").iterdir():
        with suppress(OSError):
            paths.append(os.readlink(entry))
    return "\n".join(paths)


def _pids() -> list[int]:
    return [int(entry.name) for entry in _LIST.glob("[0-9]*")]


def _stat(pid: int) -> tuple[int, int] | None:
    """The number of a process's parent and when it started, in clock ticks since boot; None where it is gone."""
    try:
        text = (_LIST / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()  # the name before it may hold anything
    return int(fields[1]), int(fields[19])
