"""What the driver pays for a trial while 64 others run, by where the study is read from: the file, or memory.

Writes the part `storage` of result.json and table.md here.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from record import HERE, record

from autopv.search import study as study_module
from autopv.search.environment import environment
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import default_controls

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

NUM_RUNNING = 64
RUNGS = (0.5, 1.0)


def milliseconds(path: Path, *, num_trials: int, seed: int) -> dict[str, float]:
    """The mean CPU time of each call, and of all of a trial's, once `NUM_RUNNING` trials run."""
    space = Space.load("stage2_expressive").for_data(has_masks=False)
    study = SearchStudy(path, space=space, controls=default_controls(), seed=seed, rungs=RUNGS)
    chance, running = random.Random(seed), list[WorkItem]()
    cost_s: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def timed(call: str) -> Iterator[None]:
        started_s = time.process_time()
        yield
        if len(running) == NUM_RUNNING:
            cost_s[call].append(time.process_time() - started_s)

    for _ in range(NUM_RUNNING + num_trials):
        with timed("proposal"):
            assert study.num_trials >= len(running)
            item = study.propose(flops=1.0)
        if len(running) < NUM_RUNNING:
            running.append(item)
            continue
        ended = running[chance.randrange(NUM_RUNNING)]
        for fraction in RUNGS:
            look = Look(fraction=fraction, distance=chance.gauss(300, 30), steps=1, flops=1.0)
            with timed("look"):
                goes_on = study.judge(ended, look)
            if not goes_on:
                break
        outcome = Outcome(status="complete" if fraction == RUNGS[-1] else "stopped", look=look)
        with timed("end"):
            study.finish(ended, outcome)
        running[running.index(ended)] = item
    found = {call: 1e3 * statistics.fmean(costs) for call, costs in cost_s.items()}
    return found | {"all per trial": 1e3 * sum(map(sum, cost_s.values())) / num_trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=30, help="measured, after 64 that go on running")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    require_one_thread()
    rows = {}
    with tempfile.TemporaryDirectory() as work:
        mirrored = study_module.MirroredStorage
        for name, storage in (("from memory", mirrored), ("from the file, through Optuna's cache", lambda file: file)):
            study_module.MirroredStorage = storage
            cost_ms = milliseconds(Path(work) / f"{name}.db", num_trials=options.trials, seed=options.seed)
            rows[name] = {"driver_cpu_ms": cost_ms}
            print(name, rows[name], flush=True)
    record("storage", {"settings": vars(options), "versions": environment(budget_device="cpu"), "rows": rows})
    print(f"see {HERE / 'table.md'}")


if __name__ == "__main__":
    main()
