"""What deliveries.jsonl says: result.json and table.md."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from landscape import fitted
from run import DELIVERIES, EARLIER, FOREST, HERE, IN_FORESTS, SEARCHES, WARM
from scipy.stats import t

from autopv.search.environment import environment

Changes = Mapping[str, Mapping[float, Mapping[int, Mapping[str, float]]]]
_PARTS_AT = (10.0, 25.0, 50.0, 100.0, 200.0)
STOCK, RANDOM, OURS = "Ray OptunaSearch + ASHA", "random", "autopv"


def load() -> Changes:
    """Search -> budget -> world -> what was delivered."""
    changes: dict[str, dict[float, dict[int, dict[str, float]]]] = defaultdict(lambda: defaultdict(dict))
    for line in map(json.loads, DELIVERIES.read_text().splitlines()):
        for row in line["rows"]:
            changes[line["search"]][row["budget"]][line["world"]] = row
    return changes


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean with its 95% t interval."""
    mean = fmean(values)
    half = (
        float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    )
    return mean, mean - half, mean + half


def compared(changes: Changes, ours: tuple[str, float], other: tuple[str, float]) -> dict[str, Any]:
    """Our change of excess less the other's, world by world; below 0: ours is better."""
    one, two = changes[ours[0]][ours[1]], changes[other[0]][other[1]]
    worlds = sorted(set(one) & set(two))
    mean, low, high = interval([one[world]["change"] - two[world]["change"] for world in worlds])
    return {"ours": ours, "other": other, "num_worlds": len(worlds), "difference": mean, "low": low, "high": high}


def _pairs(budgets: Sequence[float], *, where: str) -> list[tuple[tuple[str, float], tuple[str, float]]]:
    """What the aims compare: ours at half of the stock one's budget and a third of random's; and all at equal ones."""
    ours, stock, chance = OURS + where, STOCK + where, RANDOM + where
    pairs = [((ours, budget / 2), (stock, budget)) for budget in budgets if budget / 2 in budgets]
    pairs += [((ours, round(budget / 3)), (chance, budget)) for budget in budgets if round(budget / 3) in budgets]
    return pairs + [((ours, budget), (other, budget)) for other in (stock, chance) for budget in budgets]


def main() -> None:
    changes = load()
    table, lengths, belief = fitted()
    budgets = sorted(changes[OURS])
    means = {
        name: {budget: interval([row["change"] for row in changes[name][budget].values()]) for budget in changes[name]}
        for name in (*SEARCHES, *EARLIER, *IN_FORESTS, *WARM)
        if name in changes
    }
    pairs = [pair for where in ("", FOREST) for pair in _pairs(budgets, where=where)]
    comparisons = [compared(changes, *pair) for pair in pairs if all(name in changes for name, _ in pair)]
    parts = [
        compared(changes, (OURS + where, budget), (name + where, budget))
        for where in ("", FOREST)
        for name in (*SEARCHES, *EARLIER)
        if name not in (OURS, STOCK, RANDOM) and name + where in changes
        for budget in _PARTS_AT
    ]
    plain = "no warm start"
    warm = [
        compared(changes, (name, budget), (plain, budget))
        for name in WARM
        if name in changes and name != plain
        for budget in changes[name]
    ]
    result = {
        "num_policies": len(table.policies),
        "effects": belief.effects,
        "lengths": asdict(lengths),
        "means": {name: {f"{b:g}": values for b, values in of.items()} for name, of in means.items()},
        "num_worlds": {name: len(next(iter(changes[name].values()))) for name in means},
        "comparisons": comparisons,
        "parts": parts,
        "warm": warm,
        "versions": environment(budget_device="cpu"),
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = [
        "Change of excess against image-only training of the policy that is delivered (on the average over seeds), by "
        "budget in full trials: mean over worlds, and half the width of its 95% interval. "
        f"{len(table.policies)} recorded policies.",
        "",
        "| search | worlds | " + " | ".join(f"{budget:g}" for budget in budgets) + " |",
        "|---|---|" + "---|" * len(budgets),
    ]
    for name, of in means.items():
        cells = [f"{of[b][0]:+.1%} ±{of[b][2] - of[b][0]:.1%}" if b in of else "" for b in budgets]
        lines.append(f"| {name} | {result['num_worlds'][name]} | " + " | ".join(cells) + " |")
    titled = {
        "Ours less the other's (below 0: ours is better)": comparisons,
        "autopv less its own other samplers, or what lacks a part of it (below 0: the default is better)": parts,
        "Warm less cold": warm,
    }
    for title, rows in titled.items():
        lines += ["", f"{title}:", "", "| ours | other | difference, 95% interval | worlds |", "|---|---|---|---|"]
        for row in rows:
            (ours, at), (other, other_at) = row["ours"], row["other"]
            lines.append(
                f"| {ours} at {at:g} | {other} at {other_at:g} | {row['difference']:+.1%} ({row['low']:+.1%} to "
                f"{row['high']:+.1%}) | {row['num_worlds']} |"
            )
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
