"""Tells what the trainings of run.py show: writes result.json and table.md here from the rows in --work."""

import argparse
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import BRIEF, IMAGE_ONLY, arms, jobs
from run import SIZE_PX, material
from scipy.stats import spearmanr, t
from trainers import sampling_flops
from variants import VARIANTS

from autopv.models.base import build_model

HERE = Path(__file__).parent
LENGTHS = (1.0, 3.0, 9.0)
NUM_BOOTSTRAP = 2000
FITTED = (0.25, 0.5, 1.0)
"""Looks through which a power law is laid."""

Rows = dict[float, dict[str, float]]


class Recorded:
    """Every recorded training: rows by look, and excess over its domain's floor.

    A variant is an arm of its domain; one with its own image-only is a domain of its own.
    earlier: what this wrote before; a training that is in it is told from there, all of its looks.
    """

    def __init__(self, work: Path, *, earlier: Path | None) -> None:
        self.rows: dict[tuple[str, int, str, int], Rows] = {}
        self.data: dict[str, str] = {}
        self.sampled: set[tuple[str, str]] = set()
        """Variants and arms of the trainings in `work`."""
        for training in [] if earlier is None else json.loads(earlier.read_text())["trainings"]:
            self.data[training["domain"]] = training["domain"].split(",")[0]
            key = (training["domain"], training["num_images"], training["arm"], training["seed"])
            self.rows[key] = {row["look"]: row for row in training["rows"]}
        for path in sorted(work.glob("*-*.json")):
            record = json.loads(path.read_text())
            job = record["job"]
            domain, arm = job["domain"], job["arm"]
            self.sampled.add((job["variant"], arm))
            reference = VARIANTS[job["variant"]].reference
            if reference:
                domain += f", {reference}"
            if job["variant"] != reference:
                arm += f" ({job['variant']})"
            self.data[domain] = job["domain"]
            key = (domain, job["num_images"], arm, job["seed"])
            self.rows.setdefault(key, {row["look"]: row for row in record["rows"]})
        self.floors = {domain: material(data).floor("search") for domain, data in self.data.items()}

    def excess(self, key: tuple[str, int, str, int], look: float, *, name: str = "distance") -> float | None:
        """The excess at a look, by one kind of measurement; None where there is none."""
        row = self.rows.get(key, {}).get(look)
        return None if row is None or name not in row else row[name] - self.floors[key[0]]

    def at_steps(self, key: tuple[str, int, str, int], steps: float) -> float | None:
        """The excess after so many steps, between looks by a power law; None beyond the last look."""
        rows = sorted(self.rows.get(key, {}).values(), key=lambda row: row["steps"])
        points = [(math.log(row["steps"]), math.log(max(1.0, row["distance"] - self.floors[key[0]]))) for row in rows]
        if len(points) < 2 or math.log(steps) > points[-1][0] + 0.2:
            return None
        # A little beyond the last look the last stretch is prolonged: a longer video took a few steps fewer.
        left, right = next(((a, b) for a, b in itertools.pairwise(points) if b[0] >= math.log(steps)), points[-2:])
        slope = (right[1] - left[1]) / (right[0] - left[0])
        return math.exp(left[1] + slope * (math.log(steps) - left[0]))


def changes(by_arm: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Every arm's change of excess against image-only, from seeds in common, with a pooled 95% interval of its own.

    A randomised block design on log excess (trainings differ by factors): seeds are blocks, the residual is pooled over
    all arms. The intervals are not simultaneous.
    """
    names = list(by_arm)
    logs = np.log(np.maximum(1.0, np.array([by_arm[name] for name in names])))
    num_arms, num_seeds = logs.shape
    residual = logs - logs.mean(1, keepdims=True) - logs.mean(0, keepdims=True) + logs.mean()
    freedom = (num_arms - 1) * (num_seeds - 1)
    half = math.nan
    if freedom > 0:
        half = float(t.ppf(0.975, freedom)) * math.sqrt(float((residual**2).sum()) / freedom * 2 / num_seeds)
    reference = logs[names.index(IMAGE_ONLY)].mean()
    found = {}
    for name, values in zip(names, logs, strict=True):
        difference = float(values.mean() - reference)
        found[name] = {
            "excess": [round(value, 1) for value in by_arm[name]],
            "change": round(math.exp(difference) - 1, 4),
            "low": None if name == IMAGE_ONLY or math.isnan(half) else round(math.exp(difference - half) - 1, 4),
            "high": None if name == IMAGE_ONLY or math.isnan(half) else round(math.exp(difference + half) - 1, 4),
        }
    return found


def effect(
    recorded: Recorded,
    *,
    domain: str,
    num_images: int,
    look: float,
    equal_steps: bool = False,
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """`changes` at one length, over the seeds on which image-only and the arm were all trained.

    without: arms left out.
    """

    def value(arm: str, seed: int) -> float | None:
        key = (domain, num_images, arm, seed)
        return recorded.at_steps(key, look * BRIEF) if equal_steps else recorded.excess(key, look)

    keys = [key for key in recorded.rows if key[:2] == (domain, num_images) and value(*key[2:]) is not None]
    keys = [key for key in keys if key[2] not in without]
    names = [a for a in dict.fromkeys((*arms(), *(key[2] for key in keys))) if a in {key[2] for key in keys}]
    counts = Counter(key[3] for key in keys)
    # A seed that few arms share is left out, and so are then arms that were not trained on every seed.
    seeds = sorted(seed for seed, count in counts.items() if 2 * count >= max(counts.values()))
    full = {a: [value(a, seed) for seed in seeds] for a in names}
    complete = {a: [v for v in values if v is not None] for a, values in full.items() if None not in values}
    return changes(complete) if len(complete) > 1 and IMAGE_ONLY in complete else {}


def fitted(points: Sequence[tuple[float, float]], at: float) -> float:
    """A power law through (compute, excess), by least squares in logs, read off at another compute."""
    slope, offset = np.polyfit(np.log([x for x, _ in points]), np.log([max(1.0, y) for _, y in points]), 1)
    return float(np.exp(offset + slope * math.log(at)))


def worth_of_looks(recorded: Recorded) -> list[dict[str, Any]]:
    """Rank correlation of every kind of look with the excess at 1x and at 3x, on the same and on the other seed."""
    study = jobs()["looks"]
    seeds = sorted({job.seed for job in study})
    names = [
        a for a in arms() if all((study[0].domain, study[0].num_images, a, seed) in recorded.rows for seed in seeds)
    ]
    if not names:
        return []

    def key(arm: str, seed: int) -> tuple[str, int, str, int]:
        return (study[0].domain, study[0].num_images, arm, seed)

    def annealed(look: float) -> Callable[[str, int], float | None]:
        return lambda arm, seed: recorded.excess(key(arm, seed), look)

    def by_name(look: float, name: str) -> Callable[[str, int], float | None]:
        return lambda arm, seed: recorded.excess(key(arm, seed), look, name=name)

    def power_law(arm: str, seed: int) -> float | None:
        points = [(look, recorded.excess(key(arm, seed), look)) for look in FITTED]
        known = [(x, y) for x, y in points if y is not None]
        return fitted(known, 3.0) if len(known) == len(FITTED) else None

    kinds: dict[str, Callable[[str, int], float | None]] = {}
    for look in (*study[0].looks[:-2], 1.0):
        kinds[f"annealed look at {look:g}x"] = annealed(look)
        kinds[f"un-annealed, short average, at {look:g}x"] = by_name(look, "distance_short_average")
        kinds[f"un-annealed, long average, at {look:g}x"] = by_name(look, "distance_long_average")
    kinds["power law through annealed looks up to 1x"] = power_law
    kinds["annealed look at 3x itself"] = annealed(3.0)
    found = []
    for kind, early in kinds.items():
        row: dict[str, Any] = {"look": kind}
        for end in (1.0, 3.0):
            for label, shift in (("same seed", 0), ("other seed", 1)):
                pairs = [
                    (early(arm, seed), recorded.excess(key(arm, seeds[(i + shift) % len(seeds)]), end))
                    for i, seed in enumerate(seeds)
                    for arm in names
                ]
                by_seed = np.array(pairs, dtype=float).reshape(len(seeds), len(names), 2)
                row[f"{end:g}x, {label}"] = correlation(by_seed)
        found.append(row)
    return found


def across_seeds(recorded: Recorded) -> dict[str, list[float]]:
    """Spearman's correlation over arms between every two different seeds, for looks that all seeds took."""
    study = [*jobs()["looks"], *jobs()["third"]]
    seeds, names = sorted({job.seed for job in study}), sorted({job.arm for job in study})

    def column(seed: int, look: float) -> list[float | None]:
        return [recorded.excess((study[0].domain, study[0].num_images, arm, seed), look) for arm in names]

    found = {}
    for early, late in ((1.0, 1.0), (1.0, 3.0), (3.0, 3.0)):
        pairs = [
            (column(a, early), column(b, late)) for a in seeds for b in seeds if (a < b if early == late else a != b)
        ]
        if all(None not in (*x, *y) for x, y in pairs):
            found[f"{early:g}x with {late:g}x"] = [round(float(spearmanr(x, y).statistic), 2) for x, y in pairs]
    return found


def correlation(pairs_SA2: np.ndarray) -> list[float] | None:
    """Mean over seeds of Spearman's correlation over arms, and its 95% bootstrap interval over arms."""
    if np.isnan(pairs_SA2).any():
        return None

    def rho(arms_A: np.ndarray) -> float:
        return float(np.mean([spearmanr(pairs[arms_A, 0], pairs[arms_A, 1]).statistic for pairs in pairs_SA2]))

    num_arms = pairs_SA2.shape[1]
    random = np.random.default_rng(0)
    draws = [random.integers(0, num_arms, num_arms) for _ in range(NUM_BOOTSTRAP)]
    several = [draw for draw in draws if len(set(draw)) > 2]
    low, high = np.quantile([rho(draw) for draw in several], [0.025, 0.975])
    return [round(rho(np.arange(num_arms)), 2), round(float(low), 2), round(float(high), 2)]


def extrapolation_errors(recorded: Recorded) -> dict[str, float]:
    """Mean absolute error, in log excess, of what is predicted for 3x: by the power law, and by the last look."""
    study = jobs()["looks"]
    errors: dict[str, list[float]] = {"power law": [], "last look": []}
    for key in recorded.rows:
        points = [(look, recorded.excess(key, look)) for look in FITTED]
        end = recorded.excess(key, 3.0)
        if key[:2] == (study[0].domain, study[0].num_images) and end is not None and all(y for _, y in points):
            known = [(x, y) for x, y in points if y is not None]
            errors["power law"].append(abs(math.log(fitted(known, 3.0) / end)))
            errors["last look"].append(abs(math.log(known[-1][1] / end)))
    return {name: round(float(np.mean(values)), 3) for name, values in errors.items() if values}


def table(title: str, found: dict[str, dict[str, Any]]) -> list[str]:
    lines = ["", f"### {title}", "", "| arm | change of excess | 95% | excess by seed |", "|---|---|---|---|"]
    for name, row in sorted(found.items(), key=lambda item: item[1]["change"]):
        interval = "" if row["low"] is None else f"{row['low']:+.0%} to {row['high']:+.0%}"
        excess = ", ".join(f"{value:.0f}" for value in row["excess"])
        lines.append(f"| {name} | {row['change']:+.1%} | {interval} | {excess} |")
    return lines


def sampling_costs(recorded: Recorded) -> list[dict[str, Any]]:
    """FLOPs of one sampled last frame for each variant and number of frames that was trained, counted by torch."""
    trained = {(variant, arms()[arm].num_frames) for variant, arm in recorded.sampled}
    found = []
    for variant, num_frames in sorted(trained):
        model = build_model(
            VARIANTS[variant].model,
            preset=VARIANTS[variant].preset,
            size_px=SIZE_PX,
            channels=1,
            num_frames=num_frames,
            seed=0,
        )
        found.append({"variant": variant or "hvae", "num_frames": num_frames, "flops": sampling_flops(model)})
    return found


def sampling_table(costs: Sequence[dict[str, Any]]) -> list[str]:
    lines = ["", "### What an image costs to sample", "", "| variant | frames | MFLOP | against one frame |"]
    lines.append("|---|---|---|---|")
    alone = {row["variant"]: row["flops"] for row in costs if row["num_frames"] == 1}
    for row in costs:
        variant = row["variant"]
        one = VARIANTS[variant].reference if variant not in alone and variant in VARIANTS else variant
        ratio = f"{row['flops'] / alone[one]:.2f}" if one in alone else ""
        lines.append(f"| {row['variant']} | {row['num_frames']} | {row['flops'] / 1e6:.1f} | {ratio} |")
    return lines


def worth_table(worth: Sequence[dict[str, Any]]) -> list[str]:
    columns = [name for name in worth[0] if name != "look"]
    lines = ["", "### Rank correlation of looks with later excess (95% bootstrap over policies)", ""]
    lines += ["| look | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for row in worth:
        cells = ["" if row[c] is None else f"{row[c][0]:.2f} ({row[c][1]:.2f} to {row[c][2]:.2f})" for c in columns]
        lines.append(f"| {row['look']} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/effect"))
    parser.add_argument("--earlier", type=Path, help="a result.json whose trainings are told too")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and table.md (default: this one)")
    options = parser.parse_args()
    recorded = Recorded(options.work, earlier=options.earlier)
    settings = json.loads((options.work / "settings.json").read_text())
    effects, lines = [], []
    for domain, num_images in sorted({key[:2] for key in recorded.rows}):
        looks = sorted(
            {look for key, rows in recorded.rows.items() if key[:2] == (domain, num_images) for look in rows}
        )
        for look in looks:
            for equal_steps in (False, True) if look in LENGTHS else (False,):
                found = effect(recorded, domain=domain, num_images=num_images, look=look, equal_steps=equal_steps)
                # Arms of fewer seeds: beside image-only on those.
                others = [arm for arm in found if arm != IMAGE_ONLY]
                fewer = effect(
                    recorded, domain=domain, num_images=num_images, look=look, equal_steps=equal_steps, without=others
                )
                for rows, more in ((found, ""), (fewer, ", arms of fewer seeds")):
                    if not rows:
                        continue
                    images = "all images" if num_images >= 10**6 else f"{num_images} images"
                    fair = "steps" if equal_steps else "compute"
                    title = f"{domain}, {images}, {look:g}x ({look * BRIEF:.0f} image-only steps), equal {fair}{more}"
                    effects.append({"title": title, "domain": domain, "num_images": num_images, "look": look,
                                    "equal": fair, "arms": rows})  # fmt: skip
                    lines += table(title, rows)
    costs = sampling_costs(recorded)
    lines += sampling_table(costs)
    worth = worth_of_looks(recorded)
    if worth:
        lines += worth_table(worth)
    by_pair = across_seeds(recorded)
    if by_pair:
        lines += ["", f"Rank correlation over the arms between different seeds, for every two of three: {by_pair}"]
    errors = extrapolation_errors(recorded)
    if errors:
        lines += ["", f"Mean absolute error of the predicted log excess at 3x: {errors}"]
    trainings = [
        {"domain": d, "num_images": n, "arm": a, "seed": s, "rows": list(rows.values())}
        for (d, n, a, s), rows in recorded.rows.items()
    ]
    data = {name: material(name) for name in sorted(set(recorded.data.values()))}
    result = {
        **settings,
        "floors": recorded.floors,
        "metric": {name: loaded.metric("search").identity.to_dict() for name, loaded in data.items()},
        "data_digest": {name: loaded.image_set.digest for name, loaded in data.items()},
        "arms": {name: policy.describe() for name, policy in arms().items()},
        "effects": effects,
        "sampling": costs,
        "worth_of_looks": worth,
        "across_seeds": by_pair,
        "extrapolation_errors": errors,
        "trainings": trainings,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "table.md").write_text("\n".join(lines).strip() + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
