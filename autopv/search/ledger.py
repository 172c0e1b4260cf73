"""The ledger: where every device-second is written down, so that a budget holds across crashes."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autopv.errors import RunFolderError

HEARTBEAT_S = 1.0
# Ray's workers notice that their driver was killed after this long at most; until then they still hold the device.
# A last beat may itself be a second old.
ORPHAN_GRACE_S = 4.0

USES = ("training", "evaluation", "rendering", "startup", "rework")
"""What a worker says it used its device for; what nobody speaks for (waiting, saving, lost in a crash) is `other`."""

_SCHEMA = """
create table if not exists segments (
    id integer primary key, phase text not null, key text not null, share real not null,
    started real not null, ended real not null, open integer not null);
create table if not exists usage (key text not null, use text not null, device_s real not null, primary key (key, use));
create table if not exists reached (key text primary key, flops real not null);
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

    A segment is one device, or the share of one that a worker holds, taken for one work item from the moment it is
    asked for until it is given back: start-up and rework are paid for. Open segments are prolonged by `beat`; after a
    crash they end at their last beat plus the time that orphaned workers may have lived on.

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
        self._unwritten_uses: dict[tuple[str, str], float] = {}
        self._reached: dict[str, float] = {}

    def close(self) -> None:
        """Ends the connection; open segments are ended now."""
        for key in list(self._open):
            self.release(key)
        if self._unwritten_uses or self._reached:
            self._write_down(self.clock())
        self._db.close()

    def grant(self, key: str, *, phase: str, share: float = 1.0) -> None:
        """Starts to charge one device, or a share of one, for the work item `key`."""
        self.release(key)
        now = self.clock()
        row = self._db.execute(
            "insert into segments (phase, key, share, started, ended, open) values (?, ?, ?, ?, ?, 1)",
            (phase, key, share, now, now),
        )
        assert row.lastrowid is not None
        self._open[key] = row.lastrowid

    def release(self, key: str) -> None:
        """Stops charging for `key`; nothing happens if it is not being charged for."""
        segment = self._open.pop(key, None)
        if segment is not None:
            self._db.execute("update segments set ended=?, open=0 where id=?", (self.clock(), segment))

    def beat(self) -> None:
        """Writes down that the open segments are still held, and what they were used for; cheap enough for a loop."""
        now = self.clock()
        if now - self._last_beat >= HEARTBEAT_S:
            self._write_down(now)
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
            "select coalesce(sum(share * (case when open then max(ended, ?) else ended end - started)), 0) "
            f"from segments where {' and '.join(clauses)}",
            (now, *values),
        ).fetchone()
        return float(row[0])

    def record_usage(
        self,
        key: str,
        *,
        training_s: float = 0.0,
        evaluation_s: float = 0.0,
        rendering_s: float = 0.0,
        startup_s: float = 0.0,
        rework_s: float = 0.0,
    ) -> None:
        """Adds what a worker used its device for, in device-seconds; written down with the next beat."""
        for use, device_s in zip(USES, (training_s, evaluation_s, rendering_s, startup_s, rework_s), strict=True):
            if device_s:
                self._unwritten_uses[key, use] = self._unwritten_uses.get((key, use), 0.0) + device_s

    def reach(self, key: str, *, start_flops: float, end_flops: float) -> float:
        """The share of the work between two points of an item's training that had been done before (rework).

        The farthest point is remembered: what lies behind it was done before a crash, and is being done again.
        """
        if key not in self._reached:
            row = self._db.execute("select flops from reached where key=?", (key,)).fetchone()
            self._reached[key] = 0.0 if row is None else row[0]
        farthest = self._reached[key]
        self._reached[key] = max(farthest, end_flops)
        if end_flops <= start_flops:
            return 0.0
        return min(1.0, max(0.0, (farthest - start_flops) / (end_flops - start_flops)))

    def usage(self, *, phase: str | None = None) -> Mapping[str, float]:
        """Device-seconds by use (see `USES`) and `other`, of one phase where given; together what was spent."""
        of_phase = "" if phase is None else "where key in (select key from segments where phase=?)"
        values = () if phase is None else (phase,)
        rows = dict(self._db.execute(f"select use, sum(device_s) from usage {of_phase} group by use", values))
        for (key, use), device_s in self._unwritten_uses.items():
            if phase is None or self.spent_s(key=key, phase=phase) > 0:
                rows[use] = rows.get(use, 0.0) + device_s
        uses = {use: rows.get(use, 0.0) for use in USES}
        return {**uses, "other": max(0.0, self.spent_s(phase=phase) - sum(uses.values()))}

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
        self.set_states({name: value})

    def set_states(self, values: Mapping[str, object]) -> None:
        """Keeps several small JSON values, all of them or none."""
        rows = [(name, json.dumps(value)) for name, value in values.items()]
        with self._transaction():
            self._db.executemany("insert or replace into state values (?, ?)", rows)

    def get_state(self, name: str) -> object:
        """The JSON value kept under `name`, or None."""
        row = self._db.execute("select value from state where name=?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def _write_down(self, now: float) -> None:
        """One transaction for all that changed since the last one."""
        uses = [(key, use, device_s) for (key, use), device_s in self._unwritten_uses.items()]
        with self._transaction():
            self._db.execute("update segments set ended=? where open=1", (now,))
            self._db.executemany(
                "insert into usage values (?, ?, ?)"
                " on conflict (key, use) do update set device_s=device_s+excluded.device_s",
                uses,
            )
            self._db.executemany("insert or replace into reached values (?, ?)", list(self._reached.items()))
        self._unwritten_uses.clear()
        self._reached = {key: flops for key, flops in self._reached.items() if key in self._open}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of what is written inside, or nothing."""
        self._db.execute("begin")
        with self._db:
            yield
