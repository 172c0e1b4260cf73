"""Brief winners against predicted ones, on the real trainings of experiments/effect: result.json and table.md."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from scipy.stats import spearmanr

from autopv.policy import Policy
from autopv.search.belief import Belief, Sighting
from autopv.search.environment import environment

HERE = Path(__file__).parent
SOURCE = HERE.parent / "effect" / "result.json"
_WHOLE = 1_000_000
"""How effect writes down that all images were trained on."""
Curves = Mapping[str, Mapping[int, Mapping[float, float]]]


def load() -> tuple[Curves, dict[str, Policy], float]:
    """Arm -> seed -> length (1 = 600 image-only steps) -> distance on ELPV, arms that are policies; and the floor."""
    recorded = json.loads(SOURCE.read_text())
    policies = {arm: Policy.parse(text) for arm, text in recorded["arms"].items()}
    curves: dict[str, dict[int, dict[float, float]]] = {}
    for training in recorded["trainings"]:
        if training["domain"] == "elpv" and training["num_images"] == _WHOLE and training["arm"] in policies:
            looks = {row["look"]: row["distance"] for row in training["rows"] if "distance" in row}
            curves.setdefault(training["arm"], {}).setdefault(training["seed"], {}).update(looks)
    return curves, policies, recorded["floors"]["elpv"]


def beliefs(
    curves: Curves, policies: Mapping[str, Policy], *, floor: float, seeds: Sequence[int], up_to: float
) -> Belief:
    """From the looks at these seeds up to a length, which counts as a full trial."""
    sightings = [
        Sighting(policy=policies[arm], seed=seed, length=length / up_to, distance=distance)
        for arm, runs in curves.items()
        for seed in seeds
        for length, distance in runs.get(seed, {}).items()
        if length <= up_to
    ]
    return Belief(sightings, floor=floor)


def power_law(looks: Mapping[float, float], *, floor: float, up_to: float, at: float) -> float:
    """Log excess at a length, by the least-squares line through the logarithms of the looks up to another."""
    points = [(math.log(length), math.log(distance - floor)) for length, distance in looks.items() if length <= up_to]
    if len(points) == 1:
        return points[0][1]
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return mean_y + slope * (math.log(at) - mean_x)


def choices(
    curves: Curves, policies: Mapping[str, Policy], *, floor: float, up_to: float, at: float
) -> list[dict[str, Any]]:
    """For every seed as judge: what each rule chooses from the other seeds, and what that comes to on the judge."""
    arms = [arm for arm, runs in curves.items() if sum(at in looks for looks in runs.values()) >= 2]
    seeds = sorted({seed for arm in arms for seed, looks in curves[arm].items() if at in looks})
    rows = []
    for judge in seeds:
        others = [seed for seed in seeds if seed != judge]
        judged = [arm for arm in arms if at in curves[arm].get(judge, {})]
        real = {arm: math.log(curves[arm][judge][at] - floor) for arm in judged}

        def over_seeds(rule: Any, arm: str, others: Sequence[int] = others) -> float:
            return fmean(rule(curves[arm][seed]) for seed in others if seed in curves[arm])

        expected = beliefs(curves, policies, floor=floor, seeds=others, up_to=up_to).expect(
            [policies[arm] for arm in judged], length=at / up_to
        )
        rules = {
            "last look": {a: over_seeds(lambda looks: math.log(looks[up_to] - floor), a) for a in judged},
            "power law": {
                a: over_seeds(lambda looks: power_law(looks, floor=floor, up_to=up_to, at=at), a) for a in judged
            },
            "expected": dict(zip(judged, expected.mean_P.tolist(), strict=True)),
        }
        for rule, predicted in rules.items():
            winner = min(judged, key=lambda arm: predicted[arm])
            rows.append(
                {
                    "rule": rule,
                    "judge": judge,
                    "num_arms": len(judged),
                    "winner": winner,
                    "change": math.expm1(real[winner] - real["image-only"]),
                    "best_possible": math.expm1(min(real.values()) - real["image-only"]),
                    "rho": float(spearmanr([predicted[a] for a in judged], [real[a] for a in judged]).statistic),
                }
            )
    return rows


def outlooks(
    curves: Curves, policies: Mapping[str, Policy], *, floor: float, up_to: float, at: float
) -> list[dict[str, Any]]:
    """What is expected of every arm at a length, from all looks up to another, beside what it came to on all seeds."""
    seeds = sorted({seed for runs in curves.values() for seed in runs})
    belief = beliefs(curves, policies, floor=floor, seeds=seeds, up_to=up_to)
    measured = [arm for arm, runs in curves.items() if any(at in looks for looks in runs.values())]
    arms = ["image-only", *(arm for arm in measured if arm != "image-only")]
    expected = belief.expect([policies[arm] for arm in arms], length=at / up_to)

    def mean(arm: str, length: float, of: str) -> float:
        common = [seed for seed, looks in curves[of].items() if length in looks and length in curves[arm].get(seed, {})]
        return fmean(math.log(curves[arm][seed][length] - floor) for seed in common)

    rows = []
    for i, arm in enumerate(arms[1:], start=1):
        change, low, high = expected.change(i, reference=0)
        real = math.expm1(mean(arm, at, arm) - mean("image-only", at, arm))
        seen = math.expm1(mean(arm, up_to, arm) - mean("image-only", up_to, arm))
        rows.append({"arm": arm, "seen": seen, "expected": change, "low": low, "high": high, "real": real})
    return rows


def main() -> None:
    torch.set_num_threads(1)
    curves, policies, floor = load()
    chosen = {
        f"{up_to:g}x to {at:g}x": choices(curves, policies, floor=floor, up_to=up_to, at=at)
        for up_to, at in ((1.0, 3.0), (3.0, 9.0), (3.0, 3.0))
    }
    told = {
        f"{up_to:g}x to {at:g}x": outlooks(curves, policies, floor=floor, up_to=up_to, at=at)
        for up_to, at in ((1.0, 3.0), (3.0, 9.0), (1.0, 9.0))
    }
    result = {"choices": chosen, "outlooks": told, "versions": environment(budget_device="cpu")}
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    header = "| trials and training | arms | rule | winner by judging seed | its change of excess | rank correlation |"
    lines = [header, "|---|---|---|---|---|---|"]
    for name, rows in chosen.items():
        for rule, own in itertools.groupby(sorted(rows, key=lambda row: row["rule"]), key=lambda row: row["rule"]):
            of = list(own)
            changes = ", ".join(f"{row['change']:+.0%}" for row in of)
            lines.append(
                f"| {name} | {of[0]['num_arms']} | {rule} | {', '.join(row['winner'] for row in of)} | {changes}, mean "
                f"{fmean(row['change'] for row in of):+.0%} | {fmean(row['rho'] for row in of):.2f} |"
            )
        best = {row["judge"]: row["best_possible"] for row in rows}
        lines.append(f"| {name} | | the best arm of each seed | | mean {fmean(best.values()):+.0%} | |")
    for name, rows in told.items():
        lines += ["", f"{name}:", "", "| arm | trials showed | expected, 95% interval | came to |", "|---|---|---|---|"]
        inside = [row["low"] <= row["real"] <= row["high"] for row in rows]
        for row in rows:
            interval = f"{row['expected']:+.0%} ({row['low']:+.0%} to {row['high']:+.0%})"
            lines.append(f"| {row['arm']} | {row['seen']:+.0%} | {interval} | {row['real']:+.0%} |")
        lines.append(f"| inside the interval | | | {sum(inside)} of {len(inside)} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
