"""Can a policy be judged without any training? The information profiles of the recorded policies beside their results.

Writes profiles.json (once; it needs no recorded curves) and prescreen.md.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from record import material, policies
from surrogate import correlation, load, mean_log_excess

from autopv.policy import Policy
from autopv.profile.profile import profile_policy

HERE = Path(__file__).parent
PROFILES = HERE / "profiles.json"
RADIUS = 1
TOP_SHARE = 0.2
LATER = ("random-23", *(f"random-{number}" for number in range(36, 60)))
"""Recorded after bounds and correlations had first been looked at."""
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


def _num_top(names: Sequence[str]) -> int:
    return math.ceil(TOP_SHARE * len(names))


def _screen(
    measure: str,
    known: Mapping[str, Mapping[str, float]],
    *,
    earlier: Sequence[str],
    later: Sequence[str],
    result: Mapping[str, float],
) -> tuple[str, int, int]:
    """How many of the later policies lie outside the range of the earlier ones' top fifth, and how many wrongly so."""
    tops = [sorted(names, key=lambda name: result[name])[: _num_top(names)] for names in (earlier, later)]
    allowed = [known[name][measure] for name in tops[0]]
    rejected = [name for name in later if not min(allowed) <= known[name][measure] <= max(allowed)]
    return measure, len(rejected), len(set(rejected) & set(tops[1]))


def main() -> None:
    torch.set_num_threads(1)
    known = profiles()
    curves, _, floor = load()
    result = {name: mean_log_excess(seeds, floor=floor) for name, seeds in curves.items() if name in known}
    names = list(result)
    ranked = sorted(names, key=lambda name: result[name])
    top = set(ranked[: _num_top(ranked)])
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
    later = [name for name in names if name in LATER]
    earlier = [name for name in names if name not in LATER]
    screens = [_screen(measure, known, earlier=earlier, later=later, result=result) for measure in MEASURES]
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
        f"A screen: reject what lies outside the range of the top fifth of the first {len(earlier)} policies. Among "
        f"the {len(later)} policies recorded after these (their top fifth: {_num_top(later)}):",
        "",
        "| measure | rejected | of these in the top fifth |",
        "|---|---|---|",
        *(f"| {MEASURES[measure]} | {rejected} | {wrongly} |" for measure, rejected, wrongly in screens),
        "",
    ]
    (HERE / "prescreen.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
