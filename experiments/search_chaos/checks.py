"""Whether the promises held: reads what the run folder, the snapshots and the observer say, and compares."""

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launches import LINGER_S, Record
from losses import Loss, Work, losses_of
from observer import EVERY_S, Process
from strikes import Event, Strike

from autopv.search.budget import Budget
from autopv.search.events import read_events
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.records import TrialRecord
from autopv.search.run_folder import RunFolder
from autopv.search.study_file import read_records

# In the short form shares mean nothing, and the machine may be busy with other tests.
_SHORT_OVERSHOOT_S = 5.0
_SHORT_LOSS_S = 15.0
_MOST_OVERSHOOT, _MOST_REWORK = 0.02, 0.05


@dataclass(frozen=True, kw_only=True)
class Promise:
    """One line of the table: what was found, and what it had to be."""

    what: str
    found: str
    bound: str
    holds: bool


@dataclass(frozen=True, kw_only=True)
class _Segment:
    phase: str
    started_s: float
    ended_s: float


class Checks:
    """Everything that can be told of a search that was carried out in `work`."""

    def __init__(self, work: Path, *, short: bool) -> None:
        self._work, self._short = work, short
        self.record = Record.load(work / "record.json")
        self.folder = RunFolder(work / "run")
        self.settings = self.folder.settings()
        self.budget_s = Budget.parse(self.settings.budget).device_s or 0.0
        self._events: list[Event] = list(read_events(self.folder.events))
        self._trials = {record.key: record for record in read_records(self.folder.study)}
        ledger = Ledger(self.folder.ledger, read_only=True)
        self._verified = {(result.arm, result.seed): result for result in ledger.verification()}
        self.spent_s, self.use_s = ledger.spent_s(), dict(ledger.usage())
        ledger.close()
        self._segments = _segments(self.folder.ledger)
        self._training = Work(self._events, search_rungs=self.settings.rungs)
        self.losses = [self._losses(strike) for strike in self.record.strikes]

    def promises(self) -> list[Promise]:
        """The promises of the engine, each with what was found."""
        finished, lost = self._finished_and_lost()
        running = [record.key for record in self._trials.values() if record.state == "running"]
        again = _started_again(self._events)
        late_workers = [w for w in self._workers() if w.lived_until(math.inf) > self._over_s(w) + LINGER_S + EVERY_S]
        # Ray's helpers hold no device and end by themselves; how long that takes is told below.
        left = [p for p in self.record.processes if p.gone_s is None and p.worker_since_s is not None]
        worst = min((row["covered_s"] for row in self.kills() if row["orphans_s"] > 0), default=0.0)
        cpu_s = sum(worker.cpu_s for worker in self._workers())
        tolerance_s = 2 * EVERY_S * self.settings.num_workers
        return [
            Promise(
                what=f"finished items of {len(self._driver_strikes())} snapshots lost or changed",
                found=f"{len(lost)} of {finished}" + (f": {', '.join(sorted(lost))}" if lost else ""),
                bound="0",
                holds=not lost,
            ),
            _none("items started again after their end", again),
            _none("trials left RUNNING", running),
            _none(f"workers alive {LINGER_S:g} s after a kill of their driver", [_named(w) for w in late_workers]),
            _none(f"workers alive {LINGER_S:g} s after the end", [_named(process) for process in left]),
            self._overshoot(),
            Promise(
                what="worst kill: charged after it, less what its orphans lived",
                found=f"{worst:+.1f} s",
                bound=f"at least {-tolerance_s:.1f} s (the observer's grain)",
                holds=worst >= -tolerance_s,
            ),
            Promise(
                what="processor time of all workers against the charge",
                found=f"{cpu_s:.0f} s of {self.spent_s:.0f} s",
                bound="at most the charge",
                holds=cpu_s <= self.spent_s,
            ),
            self._rework(),
        ]

    def kills(self) -> list[dict[str, Any]]:
        """A row for each kill: when, at what, what outlived it, what was charged and lost."""
        rows = []
        for strike, losses in zip(self.record.strikes, self.losses, strict=True):
            lived_s = sum(max(0.0, died_s - strike.time_s) for died_s in self._deaths_s(strike))
            charged_s = sum(
                s.ended_s - strike.time_s for s in self._segments if s.started_s <= strike.time_s < s.ended_s
            )
            is_driver = strike.victim == "driver"
            rows.append(
                {
                    "victim": strike.victim,
                    "moment": strike.moment,
                    "phase": strike.phase,
                    "time_s": round(strike.time_s - self.record.starts_s[0], 1),
                    "launch_age_s": round(strike.time_s - self.record.starts_s[strike.launch], 1),
                    "in_flight": len(strike.in_flight),
                    "measuring": sum(loss.measuring for loss in losses),
                    "orphans_s": round(lived_s, 2) if is_driver else 0.0,
                    "charged_after_s": round(charged_s, 2) if is_driver else 0.0,
                    "covered_s": round(charged_s - lived_s, 2) if is_driver else 0.0,
                    "lost_trainings": round(sum(loss.lost for loss in losses), 4),
                    "lost_s": round(sum(loss.seconds for loss in losses), 2),
                }
            )
        return rows

    def totals(self) -> dict[str, Any]:
        """What the observer saw of the workers, beside what the ledger says; all in device-seconds."""
        workers = self._workers()
        return {
            "launches": len(self.record.starts_s),
            "wall_s": round(self.record.ended_s - self.record.starts_s[0], 1),
            "driver_kills": len(self._driver_strikes()),
            "worker_kills": len(self.record.strikes) - len(self._driver_strikes()),
            "finished_before_a_kill": self._finished_and_lost()[0],
            "trials": dict(sorted(Counter(record.state for record in self._trials.values()).items())),
            "verification_runs": len(self._verified),
            "budget_s": self.budget_s,
            "spent_s": round(self.spent_s, 1),
            "use_s": {use: round(seconds, 1) for use, seconds in self.use_s.items()},
            "workers_lived_s": round(sum(_life_s(w, self.record.ended_s) for w in workers), 1),
            "workers_busy_s": round(sum(w.busy_s for w in workers), 1),
            "workers_cpu_s": round(sum(w.cpu_s for w in workers), 1),
            "uncharged_life_s": round(self._uncharged_s(), 1),
            "helpers_outlived_by_s": round(self._helpers_outlived_by_s(), 1),
            "useful_trainings": round(self._training.useful(), 3),
            "lost_trainings": round(self._lost(), 3),
            "seconds_per_training": round(self._training.seconds_per_training, 1),
            "left_over": self.record.left_over,
        }

    def losses_as_dicts(self) -> list[list[dict[str, Any]]]:
        """Item by item what each kill destroyed."""
        return [[asdict(loss) | {"lost": loss.lost} for loss in losses] for losses in self.losses]

    def _overshoot(self) -> Promise:
        over_s = max(0.0, self.spent_s - self.budget_s)
        found = f"{self.spent_s:.1f} s of {self.budget_s:.0f} s: {over_s / self.budget_s:.2%} over"
        if self._short:
            bound, holds = f"at most {_SHORT_OVERSHOOT_S:g} s", over_s <= _SHORT_OVERSHOOT_S
        else:
            bound, holds = f"at most {_MOST_OVERSHOOT:.0%}", over_s <= _MOST_OVERSHOOT * self.budget_s
        return Promise(what="charged, of the budget", found=found, bound=bound, holds=holds)

    def _rework(self) -> Promise:
        share = self._lost() / (self._training.useful() + self._lost())
        num = sum(len(losses) for losses in self.losses)
        worst_s = max((loss.seconds for losses in self.losses for loss in losses), default=0.0)
        found = f"{share:.1%} ({num} items hit, at most {worst_s:.1f} s of training lost each)"
        if self._short:
            bound, holds = f"at most {_SHORT_LOSS_S:g} s each", worst_s <= _SHORT_LOSS_S
        else:
            bound, holds = f"at most {_MOST_REWORK:.0%}", share <= _MOST_REWORK
        return Promise(what="training done twice, of all training", found=found, bound=bound, holds=holds)

    def _lost(self) -> float:
        return sum(loss.lost for losses in self.losses for loss in losses)

    def _losses(self, strike: Strike) -> list[Loss]:
        starts_s = [*self.record.starts_s, float("inf")]
        hit = self._hit(strike)
        num_trained = sum(w.trains_since_s is not None and w.trains_since_s <= strike.time_s for w in hit)
        return losses_of(
            strike,
            self._events,
            work=self._training,
            died_s=max([strike.time_s, *self._deaths_s(strike)]),
            num_trained=num_trained,
            launch_s=(starts_s[strike.launch], starts_s[strike.launch + 1]),
        )

    def _hit(self, strike: Strike) -> list[Process]:
        """The workers that a kill took down, sooner or later."""
        return [
            worker
            for worker in self._workers()
            if worker.launch == strike.launch
            and worker.lived_until(self.record.ended_s) >= strike.time_s
            and (strike.victim == "driver" or worker.pid == strike.pid)
        ]

    def _deaths_s(self, strike: Strike) -> list[float]:
        """When those workers were seen to be gone; one that was killed itself was gone at once."""
        if strike.victim == "worker":
            return [strike.time_s]
        return [worker.lived_until(self.record.ended_s) for worker in self._hit(strike)]

    def _finished_and_lost(self) -> tuple[int, set[str]]:
        """How many items had ended before some kill, and those of them that did not stay as they were."""
        finished: set[str] = set()
        lost: set[str] = set()
        for strike in self._driver_strikes():
            trials, verified = _snapshot(self._work / (strike.snapshot or ""))
            for record in trials:
                if record.state != "running":
                    finished.add(record.key)
                    lost |= {record.key} if self._trials.get(record.key) != record else set()
            for result in verified:
                name = f"verify-{result.arm}-{result.seed}"
                finished.add(name)
                lost |= {name} if self._verified.get((result.arm, result.seed)) != result else set()
            told = {e["key"] for e in self._events if e["event"] == "item_ended" and e["time"] <= strike.time_s}
            finished |= told
            # `unpaid` verification runs have no result, and are told as ended: only searched trials must all be there.
            ended = {record.key for record in self._trials.values() if record.state != "running"}
            lost |= {key for key in told if not key.startswith("verify-") and key not in ended}
        return len(finished), lost

    def _over_s(self, process: Process) -> float:
        """When its launch was over: killed, or at its end."""
        return next((s.time_s for s in self._driver_strikes() if s.launch == process.launch), self.record.ended_s)

    def _helpers_outlived_by_s(self) -> float:
        """How long Ray's own processes, which hold no device, lived on after a kill at most."""
        struck = {strike.launch for strike in self._driver_strikes()}
        helpers = [p for p in self.record.processes if p.launch in struck and p.worker_since_s is None]
        return max((p.lived_until(self.record.ended_s) - self._over_s(p) for p in helpers), default=0.0)

    def _uncharged_s(self) -> float:
        """Device-seconds in which more workers lived than segments were charged (idle between items, say)."""
        changes = [(w.worker_since_s or 0.0, 1, 0) for w in self._workers()]
        changes += [(w.lived_until(self.record.ended_s), -1, 0) for w in self._workers()]
        changes += [(s.started_s, 0, 1) for s in self._segments] + [(s.ended_s, 0, -1) for s in self._segments]
        total_s, before_s, living, charged = 0.0, 0.0, 0, 0
        for time_s, more_living, more_charged in sorted(changes):
            total_s += (time_s - before_s) * max(0, living - charged)
            before_s, living, charged = time_s, living + more_living, charged + more_charged
        return total_s

    def _driver_strikes(self) -> list[Strike]:
        return [strike for strike in self.record.strikes if strike.victim == "driver"]

    def _workers(self) -> list[Process]:
        return [process for process in self.record.processes if process.worker_since_s is not None]


def _named(process: Process) -> str:
    return f"{process.title[:40]} (launch {process.launch})"


def _none(what: str, found: Sequence[str]) -> Promise:
    text = f"{len(found)}" + (f": {', '.join(sorted(found))}" if found else "")
    return Promise(what=what, found=text, bound="0", holds=not found)


def _started_again(events: Sequence[Event]) -> list[str]:
    over: set[str] = set()
    again: set[str] = set()
    for event in events:
        if event["event"] == "item_started" and event["key"] in over:
            again.add(event["key"])
        if event["event"] == "item_ended":
            over.add(event["key"])
    return sorted(again)


def _snapshot(folder: Path) -> tuple[Sequence[TrialRecord], Sequence[VerificationResult]]:
    """What the databases held at a kill."""
    verified: Sequence[VerificationResult] = ()
    if (folder / "ledger.db").exists():
        ledger = Ledger(folder / "ledger.db", read_only=True)
        verified = ledger.verification()
        ledger.close()
    return read_records(folder / "study.db"), verified


def _segments(path: Path) -> list[_Segment]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        rows = db.execute("select phase, started, ended from segments order by id").fetchall()
    return [_Segment(phase=phase, started_s=started, ended_s=ended) for phase, started, ended in rows]


def _life_s(worker: Process, now_s: float) -> float:
    return worker.lived_until(now_s) - (worker.worker_since_s or 0.0)


def table(promises: Sequence[Promise], kills: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> str:
    """Markdown: the promises, what was spent, and every kill."""
    lines = ["| promise | found | bound | |", "|---|---|---|---|"]
    lines += [f"| {p.what} | {p.found} | {p.bound} | {'holds' if p.holds else '**BROKEN**'} |" for p in promises]
    lines += ["", "| measured | |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {_text(value)} |" for name, value in totals.items()]
    columns = list(kills[0]) if kills else []
    lines += ["", "| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in kills]
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def as_json(value: object) -> str:
    """The JSON that is committed."""
    return json.dumps(value, indent=2) + "\n"
