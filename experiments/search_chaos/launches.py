"""Starts autopv as users do, strikes as planned, and starts it again until the search has ended."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from observer import MARK, Observer, Process
from strikes import Blow, Event, Strike, due_s

from autopv.errors import CheckpointError
from autopv.search.run_folder import RunFolder
from autopv.training.checkpoint import read_info

POLL_S = 0.02
# What must be gone so long after a kill or after the end is waited for.
LINGER_S = 5.0
_ENDED = "item_ended"


class ChaosError(Exception):
    """The plan could not be carried out; says why."""


@dataclass(kw_only=True)
class Record:
    """What happened, as far as it cannot be read from the run folder afterwards.

    starts_s: when each launch began. ended_s: when the last one had ended. left_over: temporary files at the end.
    """

    starts_s: list[float] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    ended_s: float = 0.0
    left_over: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Record":
        values = json.loads(path.read_text(encoding="utf-8"))
        values["strikes"] = [Strike(**strike) for strike in values["strikes"]]
        values["processes"] = [Process(**process) for process in values["processes"]]
        return cls(**values)


class Chaos:
    """One search under strikes, in `work`: run/ is its folder, launch-N.log what each launch printed."""

    def __init__(self, work: Path, *, search: Sequence[str], seed: int, timeout_s: float) -> None:
        self._work, self._search = work, tuple(search)
        self._folder = RunFolder(work / "run")
        self._events = _Tail(self._folder.events)
        self._draw = random.Random(seed)
        self._deadline_s = time.time() + timeout_s
        self._record = Record()
        self._unsettled: Strike | None = None
        # Ray's sockets lie in there, and their names may not be long: not in `work`.
        self._temporary = Path(tempfile.mkdtemp(prefix="chaos-"))

    def carry_out(self, blows: Sequence[Blow], *, final_worker_delays: Sequence[float]) -> Record:
        """What happened, once the search has ended and what it left had time to go.

        Raises:
            ChaosError: a launch failed, or the search ended before every blow was struck.
        """
        with Observer() as self._observer:
            try:
                for blow in blows:
                    self._strike(self._start(), blow)
                self._finish(self._start(), final_worker_delays)
                self._record.ended_s = time.time()
                time.sleep(LINGER_S)
                self._record.processes = self._observer.processes()
            finally:  # also when the plan failed: nothing of it lives on
                for process in self._observer.processes():
                    if process.gone_s is None:
                        _kill(process.pid)
                self._record.left_over = sorted(path.name for path in self._temporary.iterdir())
                shutil.rmtree(self._temporary, ignore_errors=True)
        return self._record

    def _start(self) -> "subprocess.Popen[bytes]":
        number = len(self._record.starts_s)
        arguments = ["resume", str(self._folder.path)] if number else [*self._search, "--out", str(self._folder.path)]
        self._record.starts_s.append(time.time())
        with (self._work / f"launch-{number}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "autopv.cli", *arguments],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, MARK: str(number), "TMPDIR": str(self._temporary)},
            )
        self._observer.watch(process.pid, launch=number)
        return process

    def _strike(self, process: "subprocess.Popen[bytes]", blow: Blow) -> None:
        """Nothing; the driver is dead, and so was one of its workers before where that is planned."""
        armed_s = self._record.starts_s[-1]
        if blow.worker_delay_s is not None:
            while (struck := self._strike_worker(after_s=blow.worker_delay_s)) is None:
                self._step(process, waits_for="a kill of a worker")
            armed_s = struck.time_s
        while True:
            self._step(process, waits_for=f"a kill in {blow.moment}")
            moment_s = due_s(blow.moment, self._since(armed_s), rungs=self._rungs)
            if moment_s is not None and time.time() >= moment_s + blow.delay_s:
                break
        strike = self._kill(process.pid, victim="driver", moment=blow.moment)
        process.wait()
        snapshot = self._work / "snapshots" / str(strike.launch)
        snapshot.mkdir(parents=True)
        for path in self._folder.path.glob("*.db*"):
            shutil.copy(path, snapshot)
        strike.snapshot = str(snapshot.relative_to(self._work))
        self._unsettled = strike

    def _strike_worker(self, *, after_s: float) -> Strike | None:
        """The kill of a worker, one of those that live so long after the first was seen; None before that."""
        launch = len(self._record.starts_s) - 1
        since_s = [worker.worker_since_s for worker in self._observer.workers(launch=launch)]
        alive = self._observer.workers(launch=launch, alive=True)
        if not alive or time.time() < min(s for s in since_s if s is not None) + after_s:
            return None
        strike = self._kill(self._draw.choice(sorted(worker.pid for worker in alive)), victim="worker", moment="random")
        strike.positions = self._positions(strike.in_flight)
        return strike

    def _finish(self, process: "subprocess.Popen[bytes]", worker_delays: Sequence[float]) -> None:
        """Nothing; the search has ended by itself, some of its workers killed on the way while there were any."""
        delays = list(worker_delays)
        while process.poll() is None:
            self._wait()
            if delays and self._strike_worker(after_s=delays[0]) is not None:
                delays.pop(0)
        if process.returncode:
            raise ChaosError(f"the last launch ended with exit code {process.returncode}: {self._last_log()}")

    def _step(self, process: "subprocess.Popen[bytes]", *, waits_for: str) -> None:
        self._wait()
        if process.poll() is not None:
            raise ChaosError(
                f"launch {len(self._record.starts_s) - 1} ended with exit code {process.returncode} before "
                f"{waits_for}; a larger budget gives it time, unless it failed: {self._last_log()}"
            )

    def _wait(self) -> None:
        if time.time() > self._deadline_s:
            raise ChaosError(f"the search took too long: {self._last_log()}")
        time.sleep(POLL_S)
        self._events.follow()
        self._settle()

    def _settle(self) -> None:
        """Writes down what the checkpoints hold, once the last killed driver's workers are dead."""
        strike = self._unsettled
        if strike is None:
            return
        orphans = self._observer.workers(launch=strike.launch, alive=True)
        begun = any(event["event"] == "item_started" for event in self._since(self._record.starts_s[-1]))
        if not orphans or begun:
            strike.positions = self._positions(strike.in_flight)
            self._unsettled = None

    def _kill(self, pid: int, *, victim: str, moment: str) -> Strike:
        """The kill, carried out and written down."""
        _kill(pid)
        time_s = time.time()
        self._events.follow()
        launch = len(self._record.starts_s) - 1
        in_flight: list[str] = []
        for event in self._since(self._record.starts_s[-1]):
            if event["event"] == "item_started" and event["key"] not in in_flight:
                in_flight.append(event["key"])
            if event["event"] == _ENDED and event["key"] in in_flight:
                in_flight.remove(event["key"])
        phases = [event["phase"] for event in self._events.seen if event["event"] == "phase"]
        strike = Strike(
            victim=victim,
            pid=pid,
            launch=launch,
            time_s=time_s,
            moment=moment,
            phase=phases[-1] if phases else "preparing",
            in_flight=in_flight,
        )
        self._record.strikes.append(strike)
        print(f"{time_s - self._record.starts_s[0]:7.1f} s: killed a {victim} ({moment}, {strike.phase})", flush=True)
        return strike

    def _positions(self, keys: Sequence[str]) -> dict[str, float]:
        """The work of each item that its checkpoint holds, in trainings of its length."""
        found = {}
        for key in keys:
            try:
                info = read_info(self._folder.item(key))
                found[key] = info.steps_done / info.total_steps
            except CheckpointError:
                found[key] = 0.0
        return found

    def _rungs(self, key: str) -> Sequence[float]:
        return (1.0,) if key.startswith("verify-") else self._folder.settings().rungs

    def _since(self, time_s: float) -> list[Event]:
        return [event for event in self._events.seen if event["time"] >= time_s]

    def _last_log(self) -> str:
        path = self._work / f"launch-{len(self._record.starts_s) - 1}.log"
        return path.read_text(encoding="utf-8", errors="replace")[-600:].strip()


class _Tail:
    """The events of a log that is being written."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0
        self.seen: list[dict[str, Any]] = []

    def follow(self) -> None:
        """Takes in what was added, up to the last whole line."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            added = file.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut short
                self.seen.append(json.loads(line))


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
