"""What a page tells of a run, read once from the run folder without touching it."""

import json
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopv.errors import RunFolderError
from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.conclusion import best_found, stored_arms
from autopv.search.events import read_events
from autopv.search.extension import current_budget
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.records import TrialRecord
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.study_file import read_study
from autopv.verify.blocks import Arm
from autopv.verify.controls import IMAGE_ONLY

PHASES = ("search", "verify")
# A driver that works writes into the ledger every second, and reports progress every few.
_SILENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run as it stood when it was read.

    budget: with all that was added to it. phase: `search`, `verify` or `done`. at_work: whether a driver gave a sign of
    life just now; last_sign_s: when the last one was. num_rejected: proposals that the screen kept from being tried.
    by_phase_s and use_s: device-seconds. floors: split -> floor, as far as known. result: result.json of a run that is
    done; None while there is anything left to do.
    """

    folder: Path
    settings: RunSettings
    budget: Budget
    phase: str
    at_work: bool
    last_sign_s: float | None
    records: Sequence[TrialRecord]
    num_rejected: int
    arms: Sequence[Arm]
    verification: Sequence[VerificationResult]
    spent_s: float
    by_phase_s: Mapping[str, float]
    use_s: Mapping[str, float]
    result: Mapping[str, Any] | None
    floors: Mapping[str, float]
    events: Sequence[Mapping[str, Any]]

    @property
    def verdict(self) -> Mapping[str, Any] | None:
        """What the evidence says, once the run is done."""
        return None if self.result is None else self.result["verdict"]

    @property
    def shown_arm(self) -> str | None:
        """The arm to look at beside image-only.

        The recommended one; else the best that was verified, a searched one rather than a control; else the best trial.
        """
        if self.verdict is not None and self.verdict["recommended"] != IMAGE_ONLY:
            return str(self.verdict["recommended"])
        controls = {arm.name for arm in self.arms if arm.kind == "control"}
        comparisons = () if self.verdict is None else self.verdict["comparisons"]
        verified = [(c["arm"] in controls, c["mean_distance"], c["arm"]) for c in comparisons if c["arm"] != IMAGE_ONLY]
        if verified:
            return str(min(verified)[2])
        best = best_found(self.records, floor=self.floors.get("search", 0.0), length=self.settings.extrapolation)
        return None if best is None else best.record.label

    def policy(self, arm: str) -> Policy | None:
        """The policy of an arm or trial."""
        known = [a.policy for a in self.arms if a.name == arm]
        known += [r.policy for r in self.records if arm in (r.label, r.key)]
        return known[0] if known else None


def read_facts(folder: RunFolder) -> Facts:
    """All of it, also of a run that is at work.

    Raises:
        RunFolderError: a damaged run folder.
    """
    settings = folder.settings()
    events = tuple(read_events(folder.events))
    with tempfile.TemporaryDirectory(prefix="autopv-report-") as scratch:
        study, ledger_file = Path(scratch) / "study.db", Path(scratch) / "ledger.db"
        in_use = _is_alive(folder)
        _copy_database(folder.study, study, in_use=in_use)
        _copy_database(folder.ledger, ledger_file, in_use=in_use)
        records, rejected = read_study(study)
        if ledger_file.exists():
            beat_s = _last_beat_s(ledger_file)
            with closing(Ledger(ledger_file, read_only=True)) as ledger:
                phase, budget = str(ledger.get_state("phase") or PHASES[0]), current_budget(ledger, settings)
                arms, verification = tuple(stored_arms(ledger)), ledger.verification()
                spent_s, use_s = ledger.spent_s(), dict(ledger.usage())
                by_phase_s = {name: ledger.spent_s(phase=name) for name in PHASES}
        else:  # it was stopped before its first trial
            budget = Budget.parse(settings.budget)
            beat_s, phase, arms, verification, spent_s = None, PHASES[0], (), (), 0.0
            use_s, by_phase_s = {}, dict.fromkeys(PHASES, 0.0)
    signs = [float(events[-1]["time"])] if events else []
    signs += [] if beat_s is None else [beat_s]
    result = _read_result(folder)
    return Facts(
        folder=folder.path,
        settings=settings,
        budget=budget,
        phase=phase,
        at_work=phase != "done" and _is_at_work(folder, last_sign_s=max(signs, default=0.0), holds=beat_s is not None),
        last_sign_s=max(signs, default=None),
        records=records,
        num_rejected=rejected,
        arms=arms,
        verification=verification,
        spent_s=spent_s,
        by_phase_s=by_phase_s,
        use_s=use_s,
        result=result if phase == "done" else None,
        floors={} if result is None else result["floors"],
        events=events,
    )


def _copy_database(source: Path, target: Path, *, in_use: bool) -> None:
    """Copies a database as it stands now; nothing where there is none.

    in_use: whether a driver may be writing to it: then SQLite copies it. What a driver left behind, perhaps killed, is
    copied as files: SQLite would write beside them, and leave there files of the reader's own.
    """
    if not source.exists():
        return
    if not in_use:
        shutil.copyfile(source, target)
        log = source.with_name(f"{source.name}-wal")
        if log.exists():
            shutil.copyfile(log, target.with_name(f"{target.name}-wal"))
        return
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as db,
            closing(sqlite3.connect(target)) as copy,
        ):
            db.backup(copy)
    except sqlite3.Error as error:
        raise RunFolderError(f"{source} cannot be read: {error}.") from error


def _last_beat_s(path: Path) -> float | None:
    """When the ledger was last written to by a driver at work."""
    with closing(sqlite3.connect(path)) as db:
        (beat_s,) = db.execute("select max(ended) from segments where open=1").fetchone()
    return None if beat_s is None else float(beat_s)


def _is_at_work(folder: RunFolder, *, last_sign_s: float, holds: bool) -> bool:
    """Whether a driver works on the run, as far as its folder shows.

    holds: whether the ledger has devices taken, which a driver gives back before it ends, unless it was killed. Between
    two items, and before the first, none is: then its process must be there.
    """
    if time.time() - last_sign_s >= _SILENCE_S:
        return False
    return holds or _is_alive(folder)


def _is_alive(folder: RunFolder) -> bool:
    """Whether the process that last locked the run exists on this machine."""
    try:
        os.kill(int((folder.path / "lock").read_text(encoding="utf-8")), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _read_result(folder: RunFolder) -> Mapping[str, Any] | None:
    if not folder.result.exists():
        return None
    try:
        result: Mapping[str, Any] = json.loads(folder.result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder.result} is damaged and cannot be read: {error}.") from error
    return result
