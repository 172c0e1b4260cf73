"""What the recorded curves teach: how well policies that were left out are predicted, and what looks are worth.

Writes surrogate.json and surrogate.md.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from autopv.policy import Policy
from autopv.search.belief import Belief, Sighting
from autopv.search.environment import environment

HERE = Path(__file__).parent
FOLDS = 10
"""At most."""
RESAMPLES = 2000
SEEDS = (401, 402)


def load() -> tuple[dict[str, dict[int, dict[float, float]]], dict[str, Policy], float]:
    """Name -> seed -> look -> distance of every policy with both seeds; the policies; the floor."""
    curves: dict[str, dict[int, dict[float, float]]] = {}
    policies = {}
    for line in map(json.loads, (HERE / "curves.jsonl").read_text().splitlines()):
        curves.setdefault(line["policy"], {})[line["seed"]] = {row["look"]: row["distance"] for row in line["rows"]}
        policies[line["policy"]] = Policy.parse(line["described"])
    whole = {name: seeds for name, seeds in sorted(curves.items()) if set(seeds) == set(SEEDS)}
    return whole, policies, json.loads((HERE / "settings.json").read_text())["floor"]


def log_excess(curve: Mapping[float, float], *, floor: float, look: float = 1.0) -> float:
    """What one training measured there."""
    return math.log(max(curve[look] - floor, 1.0))


def mean_log_excess(seeds: Mapping[int, Mapping[float, float]], *, floor: float) -> float:
    """What both trainings of a policy came to in the end."""
    return sum(log_excess(seeds[seed], floor=floor) for seed in SEEDS) / 2


def correlation(one: Sequence[float], two: Sequence[float]) -> dict[str, float]:
    """Spearman's, with its 95% interval over policies (bootstrap)."""
    chance = random.Random(0)
    values = []
    for _ in range(RESAMPLES):
        chosen = [chance.randrange(len(one)) for _ in one]
        values.append(float(spearmanr([one[i] for i in chosen], [two[i] for i in chosen]).statistic))
    values = sorted(value for value in values if not math.isnan(value))
    low, high = values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]
    return {"rho": round(float(spearmanr(one, two).statistic), 3), "low": round(low, 3), "high": round(high, 3)}


def sightings(
    names: Sequence[str], *, curves: Mapping[str, Any], policies: Mapping[str, Policy], seeds: Sequence[int]
) -> list[Sighting]:
    """All looks at these policies on these seeds."""
    return [
        Sighting(policy=policies[name], seed=seed, length=length, distance=distance)
        for name in names
        for seed in seeds
        for length, distance in curves[name][seed].items()
    ]


def main() -> None:
    torch.set_num_threads(1)
    curves, policies, floor = load()
    names = list(curves)

    def final(name: str, seed: int, *, look: float = 1.0) -> float:
        return log_excess(curves[name][seed], floor=floor, look=look)

    both = [mean_log_excess(curves[name], floor=floor) for name in names]
    first, second = ([final(name, seed) for name in names] for seed in SEEDS)
    # Policies left out, in folds.
    order = random.Random(0).sample(names, len(names))
    predicted = {}
    folds = min(FOLDS, len(names))
    for fold in range(folds):
        out = order[fold::folds]
        kept = [name for name in names if name not in out]
        belief = Belief(sightings(kept, curves=curves, policies=policies, seeds=SEEDS), floor=floor)
        expected = belief.expect([policies[name] for name in out]).mean_P.tolist()
        predicted |= dict(zip(out, expected, strict=True))
    whole = Belief(sightings(names, curves=curves, policies=policies, seeds=SEEDS), floor=floor)
    # One seed seen, the other to be told: what it measured itself against what is expected of it.
    one_seed = {
        seed: Belief(sightings(names, curves=curves, policies=policies, seeds=[seed]), floor=floor)
        .expect([policies[name] for name in names])
        .mean_P.tolist()
        for seed in SEEDS
    }
    looks = sorted(next(iter(curves.values()))[SEEDS[0]])
    result: dict[str, Any] = {
        "num_policies": len(names),
        "floor": floor,
        "effects": {name: round(size, 3) for name, size in whole.effects.items()},
        "held_out": correlation([predicted[name] for name in names], both),
        "seed_with_seed": correlation(first, second),
        "expected_from_one_seed_with_other": [
            correlation(one_seed[SEEDS[0]], second),
            correlation(one_seed[SEEDS[1]], first),
        ],
        "worth_of_looks": [
            {
                "look": look,
                "same_seed": correlation(
                    [final(n, s, look=look) for s in SEEDS for n in names], [final(n, s) for s in SEEDS for n in names]
                ),
                "other_seed": correlation(
                    [final(n, s, look=look) for s in SEEDS for n in names],
                    [final(n, t) for t in reversed(SEEDS) for n in names],
                ),
            }
            for look in looks
        ],
        "image_only": [curves["image-only"][seed][1.0] for seed in SEEDS],
        "best": sorted((round(math.exp(mean), 1), name) for name, mean in zip(names, both, strict=True))[:8],
        "versions": environment(budget_device="cpu"),
    }
    (HERE / "surrogate.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "surrogate.md").write_text(_table(result), encoding="utf-8")
    print(_table(result))


def _table(result: Mapping[str, Any]) -> str:
    def told(value: Mapping[str, float]) -> str:
        return f"{value['rho']:.2f} ({value['low']:.2f} to {value['high']:.2f})"

    one, other = result["expected_from_one_seed_with_other"]
    lines = [
        f"{result['num_policies']} policies, two seeds each; Spearman's correlations with 95% intervals over policies.",
        "",
        "| | correlation |",
        "|---|---|",
        f"| policies left out, predicted from the others, with their mean of both seeds | {told(result['held_out'])} |",
        f"| one seed with the other | {told(result['seed_with_seed'])} |",
        f"| expected from seed 401's looks, with seed 402 | {told(one)} |",
        f"| expected from seed 402's looks, with seed 401 | {told(other)} |",
        "",
        "| look at, of a full trial | with the end, same seed | with the end, other seed |",
        "|---|---|---|",
        *(
            f"| {row['look']:.3g} | {told(row['same_seed'])} | {told(row['other_seed'])} |"
            for row in result["worth_of_looks"]
        ),
        "",
        "Sizes of the effects: " + ", ".join(f"{name} {size}" for name, size in result["effects"].items()) + ".",
        "",
        "Least excess (mean of both seeds): " + ", ".join(f"{name} {excess}" for excess, name in result["best"]) + ".",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
