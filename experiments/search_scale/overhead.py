"""What real Ray costs per trial: short trials that only sleep, on eight logical devices, by the real executor.

Writes the part `ray` of result.json and table.md here.
"""

import argparse
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import HERE, record

from autopv.search.budget import Budget
from autopv.search.environment import environment
from autopv.search.events import EventLog
from autopv.search.executor import Executor
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder
from autopv.search.sources import SearchSource
from autopv.search.spending import Reserve, Speed, Spending
from autopv.search.study import SearchStudy
from autopv.spaces import Space
from autopv.verify.controls import default_controls

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

RUNGS = (0.5, 1.0)


def run(
    path: Path, *, num_trials: int, num_workers: int, trial_s: float, num_reports: int, seed: int
) -> dict[str, Any]:
    """What so many trials cost. num_reports: of progress, before each of the two looks of a trial."""
    # Ray is told by the executor how to behave, and reads it when it is imported.
    from sleeper import Sleeper

    folder = RunFolder.create(path)
    ledger = Ledger(folder.ledger)
    budget = Budget(trials=num_trials)
    speed = Speed(s_per_flop=trial_s, look_s=0.0, start_s=0.0)
    spending = Spending(budget=budget, ledger=ledger, speed=speed)
    space = Space.load("stage2_expressive").for_data(has_masks=False)
    study = SearchStudy(folder.study, space=space, controls=default_controls(), seed=seed, rungs=RUNGS)
    reserve = Reserve(flops=0.0, num_items=0)
    source = SearchSource(study, folder=folder, budget=budget, spending=spending, flops=1.0, reserve=reserve)
    executor = Executor(
        folder,
        num_workers=num_workers,
        device="cpu",
        ledger=ledger,
        spending=spending,
        events=EventLog(folder.events),
        trainable=Sleeper,
    )
    starts = path / "starts"
    starts.mkdir()
    with executor:
        started_s = time.process_time()
        executor.run(source, inputs={"trial_s": trial_s, "num_reports": num_reports, "starts": str(starts)})
        driver_s = time.process_time() - started_s
    states = [record.state for record in study.records()]
    assert len(states) == num_trials, states
    assert "running" not in states
    assert "failed" not in states
    ledger.close()
    found = measured(folder, num_workers=num_workers, driver_s=driver_s)
    return found | {"workers_started": len(list(starts.iterdir()))}


def measured(folder: RunFolder, *, num_workers: int, driver_s: float) -> dict[str, Any]:
    """Where the device-seconds went, from the ledger."""
    with sqlite3.connect(folder.ledger) as db:
        segments = db.execute("select key, started, ended from segments order by started").fetchall()
        slept_s = dict(db.execute("select key, device_s from usage where use='training'").fetchall())
    db.close()
    charged = [(ended - started, slept_s[key]) for key, started, ended in segments]
    # The first item of each worker pays for the start of its process.
    first, later = charged[:num_workers], charged[num_workers:]
    wall_s = max(ended for _, _, ended in segments) - min(started for _, started, _ in segments)
    over_s = [held_s - useful_s for held_s, useful_s in later]
    free_s = num_workers * wall_s - sum(held_s for held_s, _ in charged)
    num_trials = len(segments)
    return {
        "trials": num_trials,
        "wall_s": wall_s,
        "charged_beyond_training_s": {
            "mean": statistics.fmean(over_s),
            "median": statistics.median(over_s),
            "most": max(over_s),
        },
        "free_between_trials_s": free_s / num_trials,
        "overhead_s": statistics.fmean(over_s) + free_s / num_trials,
        "first_start_of_a_worker_s": statistics.fmean(held_s - useful_s for held_s, useful_s in first),
        "driver_cpu_s_per_trial": driver_s / num_trials,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trial-s", type=float, default=2.0, help="what a full trial sleeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and table.md")
    options = parser.parse_args()
    require_one_thread()
    load_before = os.getloadavg()[0]
    rows = {}
    with tempfile.TemporaryDirectory() as work:
        for name, num_trials, num_reports in (
            ("two looks each", options.trials, 0),
            ("and 20 reports", options.trials, 20),
        ):
            rows[name] = run(
                Path(work) / name,
                num_trials=num_trials,
                num_workers=options.workers,
                trial_s=options.trial_s,
                num_reports=num_reports,
                seed=options.seed,
            )
            print(name, rows[name], flush=True)
    settings = {name: value for name, value in vars(options).items() if name != "out"} | {"load_before": load_before}
    versions = environment(budget_device="cpu")
    record("ray", {"settings": settings, "versions": versions, "rows": rows}, out=options.out)
    print(f"see {options.out / 'table.md'}")


if __name__ == "__main__":
    main()
