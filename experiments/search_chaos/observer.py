"""Which processes of a search live and what they use, seen from outside: /proc, five times a second.

Nothing here asks autopv: the ledger is checked against it.
"""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

EVERY_S = 0.2
# Every process of a launch inherits this variable; Ray starts none of them with an empty environment.
MARK = "AUTOPV_CHAOS_LAUNCH"
# How Ray names the process of a worker that runs trials; a method that runs follows after a dot.
WORKER_TITLE = "ray::ResourceTrainable"
# Ended, and at most waiting for its parent to ask how.
_DEAD = ("Z", "X")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Process:
    """One process of a launch, as far as it was seen.

    worker_since_s, trains_since_s: when it first bore the name of a worker, and of one that trains; None until then.
    busy_s: how long it was seen within a method, start-up included. gone_s: the first look at which it was missing.
    """

    pid: int
    launch: int
    title: str
    seen_s: float
    worker_since_s: float | None = None
    trains_since_s: float | None = None
    busy_s: float = 0.0
    cpu_s: float = 0.0
    gone_s: float | None = None

    def lived_until(self, now_s: float) -> float:
        """The latest time at which it may have ended."""
        return now_s if self.gone_s is None else self.gone_s


class Observer:
    """Follows the processes of every launch it was told of, for as long as the `with` block lasts."""

    def __init__(self) -> None:
        self._launch_of: dict[int, int] = {}
        self._known: dict[int, Process | None] = {}
        self._gone: list[Process] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Observer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def watch(self, session: int, *, launch: int) -> None:
        """Follows what lives in this session, and what inherited the launch's mark."""
        with self._lock:
            self._launch_of[session] = launch
            self._known.pop(session, None)  # seen between its fork and its new session, perhaps

    def processes(self, *, launch: int | None = None) -> list[Process]:
        """All that were ever seen, of one launch where given."""
        with self._lock:
            found = [*self._gone, *(process for process in self._known.values() if process is not None)]
        return [process for process in found if launch in (None, process.launch)]

    def workers(self, *, launch: int | None = None, alive: bool = False) -> list[Process]:
        """Those that ran trials; with `alive`, those that still do."""
        workers = [process for process in self.processes(launch=launch) if process.worker_since_s is not None]
        return [process for process in workers if process.gone_s is None or not alive]

    def _run(self) -> None:
        before_s = time.time()
        while not self._over.wait(EVERY_S):
            now_s = time.time()
            with self._lock:
                self._look(now_s, since_s=before_s)
            before_s = now_s

    def _look(self, now_s: float, *, since_s: float) -> None:
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        for pid in self._known.keys() - pids:
            self._lost(pid, now_s)
        for pid in pids:
            if pid not in self._known:
                self._known[pid] = self._met(pid, now_s)
            process = self._known[pid]
            if process is not None and not _refresh(process, now_s, since_s=since_s):
                self._lost(pid, now_s)

    def _lost(self, pid: int, now_s: float) -> None:
        process = self._known.pop(pid)
        if process is not None:
            process.gone_s = now_s
            self._gone.append(process)

    def _met(self, pid: int, now_s: float) -> Process | None:
        """The process, if it belongs to a launch; None for one of someone else."""
        try:
            fields = _stat(pid)
            session = int(fields[3])
            environment = Path(f"/proc/{pid}/environ").read_bytes() if session not in self._launch_of else b""
        except (OSError, IndexError):
            return None
        if fields[0] in _DEAD:
            return None
        launch = self._launch_of.get(session)
        if launch is None:
            marks = [entry for entry in environment.split(b"\0") if entry.startswith(f"{MARK}=".encode())]
            if not marks:
                return None
            launch = int(marks[0].split(b"=")[1])
        return Process(pid=pid, launch=launch, title="", seen_s=now_s)


def _refresh(process: Process, now_s: float, *, since_s: float) -> bool:
    """Whether it still lives; takes in what it is doing. One that nobody has waited for is dead."""
    try:
        fields = _stat(process.pid)
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, IndexError):
        return False
    if fields[0] in _DEAD:
        return False
    process.cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    process.seen_s = now_s
    process.title = title or process.title  # an exiting process has none any more
    if title.startswith(WORKER_TITLE):
        process.worker_since_s = process.worker_since_s or now_s
        if title.startswith(f"{WORKER_TITLE}."):
            process.busy_s += now_s - since_s
        if title.startswith(f"{WORKER_TITLE}.train"):
            process.trains_since_s = process.trains_since_s or now_s
    return True


def _stat(pid: int) -> list[str]:
    """The fields after the name in /proc/<pid>/stat: state, parent, group, session, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
