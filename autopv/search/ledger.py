"""The ledger: where every device-second is written down, so that a budget holds across crashes."""

import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from autopv.errors import RunFolderError

HEARTBEAT_S = 1.0
# Ray's workers notice that their driver was killed after this long at most; until then they still hold the device.
ORPHAN_GRACE_S = 3.0

_SCHEMA = """
create table if not exists segments (
    id integer primary key, phase text not null, key text not null,
    started real not null, ended real not null, open integer not null);
create table if not exists usage (
    key text primary key, training_s real not null, evaluation_s real not null);
create table if not exists verification (
    arm text not null, seed integer not null, distance real, failure text, checkpoint text,
    primary key (arm, seed));
create table if not exists state (name text primary key, value text not null);
"""


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """One verification run: the distance of an arm's last frames on the final split, or why there is none."""

    arm: str
    seed: int
    distance: float | None
    failure: str | None
    checkpoint: str | None


class Ledger:
    """Device-seconds by phase and work item, with verification results; one process writes, any number read.

    A segment is one device held for one work item, from the moment it is asked for until it is given back, so start-up
    and rework are paid for. Open segments are prolonged by `beat`; after a crash they end at their last beat plus the
    time that orphaned workers may have lived on.

    clock: seconds since the epoch; all that is timed in a job (`Spending`, `Hooks`) is timed by the ledger's clock.
    """

    def __init__(self, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        if read_only and not path.exists():
            raise RunFolderError(f"{path} is missing: this is not a run folder, or it was damaged.")
        try:
            self._db = sqlite3.connect(
                f"file:{path}?mode=ro" if read_only else str(path), uri=read_only, isolation_level=None, timeout=30
            )
            if not read_only:
                self._db.execute("pragma journal_mode=wal")
                self._db.execute("pragma synchronous=full")
                self._db.executescript(_SCHEMA)
                self._db.execute("update segments set open=0, ended=ended+? where open=1", (ORPHAN_GRACE_S,))
        except sqlite3.Error as error:
            raise RunFolderError(f"The ledger {path} cannot be opened: {error}.") from error
        self._open: dict[str, int] = {}
        self._last_beat = 0.0

    def close(self) -> None:
        """Ends the connection; open segments are ended now."""
        for key in list(self._open):
            self.release(key)
        self._db.close()

    def grant(self, key: str, *, phase: str) -> None:
        """Starts to charge one device for the work item `key`."""
        self.release(key)
        now = self.clock()
        row = self._db.execute(
            "insert into segments (phase, key, started, ended, open) values (?, ?, ?, ?, 1)", (phase, key, now, now)
        )
        assert row.lastrowid is not None
        self._open[key] = row.lastrowid

    def release(self, key: str) -> None:
        """Stops charging for `key`; nothing happens if it is not being charged for."""
        segment = self._open.pop(key, None)
        if segment is not None:
            self._db.execute("update segments set ended=?, open=0 where id=?", (self.clock(), segment))

    def beat(self) -> None:
        """Writes down that the open segments are still held; cheap enough to call in a loop."""
        now = self.clock()
        if now - self._last_beat >= HEARTBEAT_S:
            self._db.execute("update segments set ended=? where open=1", (now,))
            self._last_beat = now

    def spent_s(self, *, key: str | None = None, phase: str | None = None) -> float:
        """Device-seconds charged so far, of one work item or phase where given."""
        clauses, values = ["1=1"], []
        for column, value in (("key", key), ("phase", phase)):
            if value is not None:
                clauses.append(f"{column}=?")
                values.append(value)
        now = self.clock() if self._open else 0.0  # a reader trusts the last beat
        row = self._db.execute(
            "select coalesce(sum(case when open then max(ended, ?) else ended end - started), 0) from segments where "
            + " and ".join(clauses),
            (now, *values),
        ).fetchone()
        return float(row[0])

    def record_usage(self, key: str, *, training_s: float, evaluation_s: float) -> None:
        """Adds the seconds a worker says it trained and evaluated for `key`."""
        self._db.execute(
            "insert into usage values (?, ?, ?) on conflict (key) do update set"
            " training_s=training_s+excluded.training_s, evaluation_s=evaluation_s+excluded.evaluation_s",
            (key, training_s, evaluation_s),
        )

    def usage(self) -> Mapping[str, float]:
        """Device-seconds by use: training, evaluation, and other (start-up, waiting, rework after a crash)."""
        training, evaluation = self._db.execute(
            "select coalesce(sum(training_s), 0), coalesce(sum(evaluation_s), 0) from usage"
        ).fetchone()
        spent = self.spent_s()
        return {"training": training, "evaluation": evaluation, "other": max(0.0, spent - training - evaluation)}

    def record_verification(self, result: VerificationResult) -> None:
        """Writes down one verification run; the first result of an arm and seed stands."""
        self._db.execute(
            "insert or ignore into verification values (?, ?, ?, ?, ?)",
            (result.arm, result.seed, result.distance, result.failure, result.checkpoint),
        )

    def verification(self) -> tuple[VerificationResult, ...]:
        """All verification runs so far, in the order they ended."""
        rows = self._db.execute("select arm, seed, distance, failure, checkpoint from verification order by rowid")
        return tuple(
            VerificationResult(arm=arm, seed=seed, distance=distance, failure=failure, checkpoint=checkpoint)
            for arm, seed, distance, failure, checkpoint in rows
        )

    def set_state(self, name: str, value: object) -> None:
        """Keeps a small JSON value, such as the phase a job is in."""
        self._db.execute("insert or replace into state values (?, ?)", (name, json.dumps(value)))

    def get_state(self, name: str) -> object:
        """The JSON value kept under `name`, or None."""
        row = self._db.execute("select value from state where name=?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])
