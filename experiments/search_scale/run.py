"""A search on virtual time: are 64 devices kept busy, does the budget hold, do crashes lose anything, does it repeat?

Writes its parts of result.json and table.md here. The driver's objects are the real ones, on real files.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from crashes import (
    Finished,
    chosen,
    crash_in_forks,
    crash_in_one_run,
    num_unpaid_blocks,
    num_writes,
    violations,
)
from record import HERE, record
from virtual import Driver, fingerprint
from world import EPOCH_S, Setting, World

from autopv.search.budget import Budget
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

ONE_MINUTE = Setting(budget="17gpu-h")
"""About 1,000 trials of a minute."""
TEN_MINUTES = Setting(budget="170gpu-h", trial_s=600.0, look_s=20.0, report_every_s=20.0)
"""The same with trials ten times as long. The real worker reports every 2 s; 20 s makes a virtual run as short."""
EVENTS_WITH_CRASHES = 24_000
"""Events that such a run has even if a hundred crashes cost it budget; without, it has some 28,000."""
SMALL = Setting(budget="5000gpu-s", num_devices=8)
"""About 55 trials on 8 devices, so that a hundred of them can be run to their end."""


def summary(driver: Driver) -> dict[str, Any]:
    """What a run that came to its end did and cost."""
    world, setting, budget_s = driver.world, driver.setting, driver.budget.device_s
    assert budget_s is not None
    records, verified = driver.study.records(), driver.ledger.verification()
    wall_s = world.now_s - EPOCH_S
    total_s = wall_s * setting.num_devices
    unused_s = sum(driver.unused_s.values())
    spent_s = driver.ledger.spent_s()
    return {
        "trials": len(records),
        "trials_by_state": dict(Counter(record.state for record in records)),
        "failed_items": world.num_failed,
        "lost_workers": len(world.lost),
        "verification_runs": len(verified),
        "events": driver.num_events,
        "virtual_wall_s": wall_s,
        "busy_share_while_work_is_admissible": world.busy_s / (total_s - unused_s),
        "busy_share_of_the_whole_run": world.busy_s / total_s,
        "idle_share_as_the_search_ends": driver.unused_s["search"] / total_s,
        "idle_share_in_the_verification": driver.unused_s["verify"] / total_s,
        "charged_share_of_the_budget": spent_s / budget_s,
        "held_share_of_the_budget": world.held_s / budget_s,
        "uses": {use: seconds / spent_s for use, seconds in driver.ledger.usage().items()},
        "wrong_in_the_end": violations(driver, finished=Finished(trials=(), verified=())),
        "fingerprint": fingerprint(driver),
    }


def one(path: Path, setting: Setting) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """One run that never crashes: its summary, and the CPU seconds of the driver's calls."""
    driver = Driver(path, World(setting))
    assert driver.run()
    return summary(driver), driver.cost_s


def busy_share(path: Path, setting: Setting) -> dict[str, Any]:
    """How much of the devices' time a driver that takes time over its work leaves unused."""
    found, _ = one(path, setting)
    share = found["busy_share_while_work_is_admissible"]
    return {"trials": found["trials"], "busy_share_while_work_is_admissible": share}


def milliseconds(cost_s: Mapping[str, list[float]]) -> dict[str, float]:
    """The mean CPU time of each kind of call in a run's second half, and of all calls per trial."""
    found = {kind: 1e3 * statistics.fmean(costs[len(costs) // 2 :]) for kind, costs in cost_s.items()}
    return found | {"all per trial": 1e3 * sum(map(sum, cost_s.values())) / len(cost_s["proposal"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crashes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", default=["utilisation", "crashes", "driver"])
    parser.add_argument("--report-ms", type=float, default=5.0, help="driver's time per report, for the part `driver`")
    parser.add_argument("--proposal-ms", type=float, nargs="+", default=[60.0, 900.0])
    options = parser.parse_args()
    require_one_thread()
    versions = environment(budget_device="cpu")
    settings = [replace(setting, seed=options.seed) for setting in (ONE_MINUTE, TEN_MINUTES, SMALL)]
    one_minute, ten_minutes, small = settings
    # A process of its own for each run: nothing but the seed may make two runs alike.
    with (
        tempfile.TemporaryDirectory() as work,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        folder = Path(work)
        if "utilisation" in options.parts:
            rows = {}
            for name, setting in (("trials of 1 min", one_minute), ("trials of 10 min", ten_minutes)):
                started_s = time.time()
                found, cost_s = pool.apply(one, (folder / name, setting))
                if setting is one_minute:
                    again, _ = pool.apply(one, (folder / f"{name} again", setting))
                    found["same_when_run_again"] = again == found
                rows[name] = found | {"driver_cpu_ms": milliseconds(cost_s)}
                print(name, rows[name], f"{time.time() - started_s:.0f} s", flush=True)
            shown = {"settings": [asdict(one_minute), asdict(ten_minutes)], "versions": versions, "rows": rows}
            record("utilisation", shown)
        if "crashes" in options.parts:
            rows = {}
            count = pool.apply(num_writes, (folder / "count", small))
            writes = chosen(count, num_crashes=options.crashes, seed=options.seed)
            rows["each in a copy of a small run"] = pool.apply(forks, (folder / "forks", small, writes))
            print(rows, flush=True)
            events = chosen(EVENTS_WITH_CRASHES, num_crashes=options.crashes, seed=options.seed)
            rows["all in one run"] = pool.apply(in_one, (folder / "one", ten_minutes, events))
            print(rows, flush=True)
            record("crashes", {"settings": [asdict(small), asdict(ten_minutes)], "versions": versions, "rows": rows})
        if "driver" in options.parts:
            rows = {}
            for proposal_ms in options.proposal_ms:
                for name, setting in (("1 min", one_minute), ("10 min", ten_minutes)):
                    # Reports as often as the real worker's; a third of the trials tell as much.
                    budget_s = Driver(folder / f"{name} {proposal_ms}", World(setting)).budget.device_s
                    assert budget_s is not None
                    slow = replace(
                        setting,
                        budget=f"{round(budget_s / 3)}gpu-s",
                        report_every_s=2.0,
                        proposal_s=proposal_ms / 1e3,
                        report_s=options.report_ms / 1e3,
                    )
                    title = f"trials of {name}, {proposal_ms:g} ms per proposal"
                    rows[title] = pool.apply(busy_share, (folder / title, slow))
                    print(title, rows[title], flush=True)
            record("driver", {"report_ms": options.report_ms, "versions": versions, "rows": rows})
    print(f"see {HERE / 'table.md'}")


def forks(path: Path, setting: Setting, writes: list[int]) -> dict[str, Any]:
    """What came of copies of a run that were killed at each of these writes."""
    endings = crash_in_forks(path, setting, writes=writes)
    budget_s = Budget.parse(setting.budget).device_s
    assert budget_s is not None
    return {
        "crashes": len(endings),
        "trials_finished_before_the_crash": [
            min(e.num_finished for e in endings),
            max(e.num_finished for e in endings),
        ],
        "runs_with_something_wrong": sum(bool(ending.wrong) for ending in endings),
        "what_was_wrong": sorted({text for ending in endings for text in ending.wrong}),
        "blocks_that_could_not_be_paid_any_more": sum(ending.num_unpaid_blocks for ending in endings),
        "most_charged_share_of_the_budget": max(ending.spent_s for ending in endings) / budget_s,
        "most_held_share_of_the_budget": max(ending.held_s for ending in endings) / budget_s,
    }


def in_one(path: Path, setting: Setting, events: list[int]) -> dict[str, Any]:
    """What came of one run whose driver was killed at each of these events."""
    driver, num_crashes, wrong = crash_in_one_run(path, setting, events=events)
    found = summary(driver)
    return {
        "crashes": num_crashes,
        "trials": found["trials"],
        "trials_by_state": found["trials_by_state"],
        "verification_runs": found["verification_runs"],
        "runs_with_something_wrong": int(bool(wrong)),
        "what_was_wrong": wrong,
        "blocks_that_could_not_be_paid_any_more": num_unpaid_blocks(driver),
        "most_charged_share_of_the_budget": found["charged_share_of_the_budget"],
        "most_held_share_of_the_budget": found["held_share_of_the_budget"],
        "uses": found["uses"],
    }


if __name__ == "__main__":
    main()
