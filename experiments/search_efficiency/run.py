"""Runs every search on every pretended world and appends what it delivered to deliveries.jsonl; can be interrupted."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from landscape import Landscape, Mixed
from searches import Autopv, Options, RandomSearch, Search, Stock, World, run

from autopv.policy import Policy
from autopv.search.target import MOST_GIVEN_SHARE

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
DELIVERIES = HERE / "deliveries.jsonl"
BUDGETS = (10.0, 17.0, 20.0, 25.0, 33.0, 50.0, 67.0, 100.0, 200.0)
"""In full trials."""
REPETITIONS = 50
SLOW = 20
"""Repetitions of samplers that take long to ask, of warm starts, and of what only explains."""
FOREST = " in forests"
"""What the searches are called that run in worlds made by random forests (forest.py)."""
_SIMPLE = {"controls": False, "luckiest": True, "repeat_share": 0.0}

Make = Callable[[int, World], Search]


def _autopv(**options: Any) -> Make:
    return lambda seed, world: Autopv(Options(**options), seed=seed, floor=world.floor)


SEARCHES: dict[str, tuple[Make, int]] = {
    "random": (lambda seed, _: RandomSearch(seed=seed), REPETITIONS),
    "random + halving": (_autopv(sampler="random", **_SIMPLE), REPETITIONS),
    "one rung, then top-k": (_autopv(sampler="random", stopping="top-k", **_SIMPLE), REPETITIONS),
    "Ray OptunaSearch + ASHA": (lambda seed, _: Stock(seed=seed), REPETITIONS),
    "Ray OptunaSearch, no stopping": (lambda seed, _: Stock(seed=seed, stops=False), SLOW),
    "autopv": (_autopv(), REPETITIONS),
    "autopv --sampler belief": (_autopv(sampler="belief"), SLOW),
    "autopv --sampler random": (_autopv(sampler="random"), SLOW),
    "autopv --sampler evolution": (_autopv(sampler="evolution"), SLOW),
    "autopv --sampler reinforce": (_autopv(sampler="reinforce"), SLOW),
    "autopv --sampler gp": (_autopv(sampler="gp"), SLOW),
    "autopv --repeats 0": (_autopv(repeat_share=0.0), SLOW),
    "autopv, luckiest delivered": (_autopv(luckiest=True), SLOW),
    "autopv --stopping none": (_autopv(stopping="none"), SLOW),
    "autopv without controls": (_autopv(controls=False), SLOW),
}
"""Name -> how to make it for a seed and a world, and how often it is repeated."""
EARLIER = ("autopv, TPE after 10 trials",)
"""What was run with code that is no more: lines of deliveries.jsonl from before `samplers._TPE_STARTUP` was 30."""
IN_FORESTS = {
    name + FOREST: SLOW for name in ("random", "Ray OptunaSearch + ASHA", "autopv", "autopv --sampler belief")
}
WARM_BUDGETS = (10.0, 20.0, 50.0)
WARM = {"no warm start": None, "warm, likeness 1": 1.0, "warm, likeness 0.7": 0.7, "warm, unlike": 0.0}
_SOURCE_BUDGET = 50.0


def one(task: tuple[str, int]) -> dict[str, Any]:
    """What one search delivered in one world, for each budget."""
    name, number = task
    torch.set_num_threads(1)
    started_s = time.process_time()
    world = _forest(number) if name in IN_FORESTS else Landscape(number)
    plain = name.removesuffix(FOREST)
    rows = _warm(name, number, world) if name in WARM else _plain(plain, number, world)
    return {"search": name, "world": number, "rows": rows, "cpu_s": round(time.process_time() - started_s, 1)}


def _forest(number: int) -> World:
    from forest import ForestLandscape  # scikit-learn is no dependency of the project

    return ForestLandscape(number)


def _plain(name: str, number: int, world: World) -> list[dict[str, Any]]:
    make = SEARCHES[name][0]
    if "top-k" in name:  # what it does depends on the budget from the start
        return [row for budget in BUDGETS for row in _rows(make(number, world), world, number, [budget])]
    return _rows(make(number, world), world, number, BUDGETS)


def _warm(name: str, number: int, world: World) -> list[dict[str, Any]]:
    """autopv with the best policies of a search elsewhere, in as many trials as `--warm-start` gives them."""
    likeness, rows = WARM[name], []
    best: list[Policy] = []
    if likeness is not None:
        source = Mixed(Landscape(number), Landscape(10_000 + number, free=True), likeness=likeness)
        earlier = Autopv(Options(), seed=5000 + number, floor=source.floor)
        for _ in run(earlier, source, budgets=[_SOURCE_BUDGET]):
            best = earlier.ranked()
    for budget in WARM_BUDGETS:
        given = {f"given-{i + 1}": policy for i, policy in enumerate(best[: max(1, int(MOST_GIVEN_SHARE * budget))])}
        search = Autopv(Options(), seed=number, floor=world.floor, given=given)
        rows += _rows(search, world, number, [budget])
    return rows


def _rows(search: Search, world: World, number: int, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """change: of excess against image-only, on the average over seeds; judged: on one seed that no search saw."""
    image_only = Policy.image_only()
    rows = []
    for budget, policy in run(search, world, budgets=budgets):
        row: dict[str, Any] = {"budget": budget, "policy": None, "change": 0.0, "judged": 0.0}
        if policy is not None:
            judged = [world.distance(p, seed=2**31 + number, length=1.0) - world.floor for p in (policy, image_only)]
            change = world.log_excess(policy) - world.log_excess(image_only)
            row |= {"policy": policy.describe(), "change": round(float(torch.tensor(change).expm1()), 4)}
            row["judged"] = round(judged[0] / judged[1] - 1, 4)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("searches", nargs="*", help="names of searches; default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repetitions", type=int, help="at most so many of each")
    options = parser.parse_args()
    require_one_thread()
    done = set()
    if DELIVERIES.exists():
        done = {(line["search"], line["world"]) for line in map(json.loads, DELIVERIES.read_text().splitlines())}
    counts = {name: count for name, (_, count) in SEARCHES.items()} | IN_FORESTS | dict.fromkeys(WARM, SLOW)
    wanted = [
        (name, number)
        for number in range(max(counts.values()))
        for name, count in counts.items()
        if number < min(count, options.repetitions or count)
        and (name, number) not in done
        and (not options.searches or name in options.searches)
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for line in pool.imap_unordered(one, wanted, chunksize=1):
            with DELIVERIES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            changes = [row["change"] for row in line["rows"]]
            print(f"{line['world']:3d} {line['search']:<32} {line['cpu_s']:6.1f} s  {changes}", flush=True)


if __name__ == "__main__":
    main()
