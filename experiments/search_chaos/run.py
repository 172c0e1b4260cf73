"""Kills one search again and again, goes on with it each time, and checks that every promise held.

Prints a table and writes result.json and table.md: here, or into --work for the short form. Exit code 1 if a promise
broke, or the kills could not be carried out.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from checks import Checks, as_json, table
from launches import Chaos, ChaosError
from strikes import final_worker_delays, long_schedule, short_schedule

HERE = Path(__file__).parent
SEARCH = ("search", "--size", "16", "--seeds", "1")
TRIAL_STEPS, SHORT_STEPS = "400", "150"
NUM_WORKERS, SHORT_WORKERS = "2", "1"
BUDGET = "20cpu-min"
# The short form pays for so much work, and for the starts of so many workers, however long one takes here.
SHORT_WORK_S, SHORT_STARTS = 35.0, 4
TIMEOUT_S = 45 * 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="how often the driver is killed (default: 10)")
    parser.add_argument("--budget", help=f"device time (default: {BUDGET}; short: about a minute on a quiet machine)")
    parser.add_argument("--trial-steps", help=f"as for `autopv search` (default: {TRIAL_STEPS}; short: {SHORT_STEPS})")
    parser.add_argument("--data", default="elpv", help="as for `autopv search` (default: elpv)")
    parser.add_argument("--seed", type=int, default=0, help="of the search and of the schedule (default: 0)")
    parser.add_argument("--short", action="store_true", help="two driver kills, one worker kill, one worker")
    parser.add_argument("--work", type=Path, help="an empty folder for the run (default: a temporary one)")
    parser.add_argument("--only-check", action="store_true", help="reads what an earlier call left in --work")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # one thread per process, as autopv's workers
    work = (options.work or Path(tempfile.mkdtemp(prefix="chaos-work-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    print(f"works in {work}", flush=True)
    if not options.only_check:
        search = [*SEARCH, "--data", options.data, "--seed", str(options.seed)]
        search += ["--workers", SHORT_WORKERS if options.short else NUM_WORKERS]
        search += ["--trial-steps", options.trial_steps or (SHORT_STEPS if options.short else TRIAL_STEPS)]
        search += ["--budget", options.budget or (short_budget() if options.short else BUDGET)]
        schedule = (
            short_schedule(seed=options.seed) if options.short else long_schedule(options.kills, seed=options.seed)
        )
        chaos = Chaos(work, search=search, seed=options.seed, timeout_s=TIMEOUT_S)
        try:
            record = chaos.carry_out(
                schedule, final_worker_delays=final_worker_delays(short=options.short, seed=options.seed)
            )
        except ChaosError as error:
            print(f"The plan could not be carried out: {error}", file=sys.stderr)
            return 1
        record.save(work / "record.json")
    checks = Checks(work, short=options.short)
    promises, kills, totals = checks.promises(), checks.kills(), checks.totals()
    result = {
        "promises": [asdict(promise) for promise in promises],
        "totals": totals,
        "kills": kills,
        "losses": checks.losses_as_dicts(),
        "settings": asdict(checks.settings),
    }
    text = table(promises, kills, totals)
    out = work if options.short else HERE
    (out / "result.json").write_text(as_json(result), encoding="utf-8")
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(promise.holds for promise in promises) else 1


def short_budget() -> str:
    """Device time for the short form. On a busy machine a fixed one would go into starting workers."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import autopv.search.trial"], check=True)
    start_s = time.monotonic() - started_s
    return f"{round(SHORT_WORK_S + SHORT_STARTS * start_s)}cpu-s"


if __name__ == "__main__":
    sys.exit(main())
