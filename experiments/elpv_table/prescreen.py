"""Can a policy be judged without any training? The information profiles of the recorded policies beside their results.

Writes profiles.json (once; it needs no recorded curves) and prescreen.md.
"""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import material, policies
from surrogate import SEEDS, correlation, load

from autopv.policy import Policy
from autopv.profile.profile import profile_policy

HERE = Path(__file__).parent
PROFILES = HERE / "profiles.json"
RADIUS = 1
TOP_SHARE = 0.2
MEASURES = {
    "farthest": "pixel distance of the farthest frame",
    "nearest": "pixel distance of the nearest frame",
    "mean": "mean pixel distance of the frames",
    "together": "R^2 of the image from all frames",
    "alone": "mean R^2 of the image from one frame",
    "coarse": "share of the coarsest band kept, mean over frames",
    "fine": "share of the finest band kept, mean over frames",
    "gain": "what earlier frames add to the last pseudo frame",
}


def measured(policy: Policy) -> dict[str, float]:
    """A policy's profile in a few numbers."""
    profile = profile_policy(
        policy, material().images("train"), seed=0, num_images=256, with_features=False, radius=RADIUS
    )
    frames = profile.frames
    values = {
        "farthest": max(frame.pixel_distance for frame in frames),
        "nearest": min(frame.pixel_distance for frame in frames),
        "mean": fmean(frame.pixel_distance for frame in frames),
        "together": profile.together,
        "alone": fmean(frame.alone for frame in frames),
        "coarse": fmean(frame.kept[0] for frame in frames),
        "fine": fmean(frame.kept[-1] for frame in frames),
        "gain": max(frame.gain for frame in frames),
    }
    return {name: round(value, 4) for name, value in values.items()}


def profiles() -> dict[str, dict[str, float]]:
    """Of every policy of the table but image-only training, which has no frames to look at."""
    if not PROFILES.exists():
        found = {name: measured(policy) for name, policy in policies().items() if not policy.is_image_only}
        PROFILES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    known: dict[str, dict[str, float]] = json.loads(PROFILES.read_text(encoding="utf-8"))
    return known


def main() -> None:
    torch.set_num_threads(1)
    known = profiles()
    curves, _, floor = load()
    result = {
        name: fmean(math.log(max(curves[name][seed][1.0] - floor, 1.0)) for seed in SEEDS)
        for name in curves
        if name in known
    }
    names = list(result)
    ranked = sorted(names, key=lambda name: result[name])
    top = set(ranked[: math.ceil(TOP_SHARE * len(ranked))])
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        values = {name: known[name][measure] for name in names}
        rows.append(
            {
                "measure": measure,
                **correlation([values[name] for name in names], [result[name] for name in names]),
                # How many policies each end of the measure could reject without touching the top.
                "below": sum(values[name] < min(values[t] for t in top) for name in names),
                "above": sum(values[name] > max(values[t] for t in top) for name in names),
                "top": (min(values[t] for t in top), max(values[t] for t in top)),
                "all": (min(values.values()), max(values.values())),
            }
        )
    lines = [
        f"{len(names)} policies, mean of two seeds; the top fifth are {len(top)}. Correlation: Spearman's with the "
        "excess at the end, so below 0 more of the measure is better.",
        "",
        "| measure | correlation, 95% interval | range | range of the top fifth | below it | above it |",
        "|---|---|---|---|---|---|",
        *(
            f"| {MEASURES[row['measure']]} | {row['rho']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) | "
            f"{row['all'][0]:.3f} to {row['all'][1]:.3f} | {row['top'][0]:.3f} to {row['top'][1]:.3f} | "
            f"{row['below']} | {row['above']} |"
            for row in rows
        ),
        "",
    ]
    (HERE / "prescreen.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
