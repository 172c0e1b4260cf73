"""Trains the tiny model with each op alone, at equal compute on common seeds; writes result.json and result.md here.

Every training is kept in --work as soon as it ends: run the command again to go on.
"""

import argparse
import functools
import json
import multiprocessing
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from autopv.metrics.metric import MetricIdentity
from autopv.policy import Layer, Policy
from autopv.profile import profile_policy
from autopv.search.environment import environment
from autopv.spaces import Space
from autopv.training.material import Material, Setup
from autopv.training.measure import measure

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
SEEDS = (101, 102)
"""All arms. They are not the search's seeds, nor those of its verification."""
IMAGE_ONLY = "image-only"
EXTRA_SEEDS = (103, 104)
"""More of image-only beside all ops: every one of them is compared with it."""
SHARE = 0.6
"""Of the op's range in the shipped spaces: visible, not yet destructive."""
NUM_FRAMES, FRAME_LOSS_WEIGHT = 3, 0.06
PROFILED = 128


def arms() -> dict[str, Policy]:
    """Image-only, and a short first-order chain of each op that needs no masks."""
    found = {IMAGE_ONLY: Policy.image_only()}
    for name in ("stage2_expressive", "stage3_defect"):
        for op, magnitudes in Space.load(name).for_data(has_masks=False).magnitudes:
            layer = Layer(op=op, magnitude=magnitudes.at(SHARE), frames=(1, NUM_FRAMES - 1))
            found[op] = Policy(num_frames=NUM_FRAMES, frame_loss_weight=FRAME_LOSS_WEIGHT, layers=(layer,))
    return found


@functools.cache
def material() -> Material:
    return Material.load(Setup(data="elpv"))


def train(job: tuple[str, int, int, str]) -> None:
    """One training, measured on the search split, written into the work folder."""
    arm, seed, steps, work = job
    torch.set_num_threads(1)
    loaded = material()
    one = trainer_of_steps(loaded.images("train"), policy=arms()[arm], steps=steps, seed=seed)
    model = one.annealed_look(1.0)
    assert model is not None
    row = {
        "arm": arm,
        "seed": seed,
        "steps": one.steps_done,
        "distance": measure(model, loaded.metric("search"), seed=seed),
    }
    path = Path(work) / f"{arm}-{seed}.json"
    path.with_suffix(".part").write_text(json.dumps(row))
    path.with_suffix(".part").replace(path)
    print(json.dumps(row), flush=True)


def summary(
    rows: list[dict[str, Any]], *, chosen: dict[str, Policy], floor: float
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every arm's change of excess against image-only on the common seeds, and how much one arm's seeds differ."""
    by_arm = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in chosen}
    reference = statistics.fmean(by_arm[IMAGE_ONLY][seed]["distance"] for seed in SEEDS) - floor
    table = []
    for arm, policy in chosen.items():
        distances = [by_arm[arm][seed]["distance"] for seed in SEEDS]
        excess = statistics.fmean(distances) - floor
        table.append(
            {
                "arm": arm,
                "policy": policy.describe(),
                "steps": by_arm[arm][SEEDS[0]]["steps"],
                "distances": [round(distance, 1) for distance in distances],
                "excess": round(excess, 1),
                "change": round(excess / reference - 1, 4),
            }
        )
    # Of two seeds, half the squared difference is the variance; seeds shift all arms alike, which a difference shows.
    shifts = [row["distances"][1] - row["distances"][0] for row in table]
    common = statistics.fmean(shifts)
    deviation = (
        statistics.fmean((shift - common) ** 2 for shift in shifts) * len(shifts) / (len(shifts) - 1) / 2
    ) ** 0.5
    noise = {
        "deviation_of_one_training": round(deviation, 1),
        "standard_error_of_a_change": round(deviation * (2 / len(SEEDS)) ** 0.5 / reference, 4),
        "image_only_all_seeds": [round(row["distance"], 1) for row in by_arm[IMAGE_ONLY].values()],
    }
    return sorted(table, key=lambda row: row["excess"]), noise


def profiles(chosen: dict[str, Policy], images_NCHW: torch.Tensor) -> dict[str, dict[str, float]]:
    """What the information profile says of each op's video."""
    found = {}
    for arm, policy in chosen.items():
        if arm != IMAGE_ONLY:
            profile = profile_policy(policy, images_NCHW, num_images=PROFILED, radius=1)
            first, last = profile.frames[0], profile.frames[-1]
            found[arm] = {
                "pixel_distance_first": first.pixel_distance,
                "feature_distance_first": first.feature_distance or 0.0,
                "r2_first": first.alone,
                "r2_last": last.alone,
                "kept_low_first": first.kept[0],
                "kept_high_first": first.kept[-1],
            }
    return found


def correlations(table: list[dict[str, Any]], found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of every figure of the profiles with the excess, over the ops."""
    excess = {row["arm"]: row["excess"] for row in table}
    names = next(iter(found.values())).keys()
    result = {}
    for name in names:
        test = spearmanr([found[arm][name] for arm in found], [excess[arm] for arm in found])
        result[name] = {"rho": round(float(test.statistic), 3), "p": round(float(test.pvalue), 4)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--steps", type=int, default=1600, help="image-only steps that each training's compute pays for"
    )
    parser.add_argument("--ops", nargs="*", help="these alone; default: all")
    parser.add_argument("--result", default="result", help="name of the JSON file and of the table written here")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/single_ops"))
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = {arm: policy for arm, policy in arms().items() if not options.ops or arm in (IMAGE_ONLY, *options.ops)}
    extra_seeds = () if options.ops else EXTRA_SEEDS
    wanted = [(IMAGE_ONLY, seed) for seed in extra_seeds] + [(arm, seed) for seed in SEEDS for arm in chosen]
    jobs = [
        (arm, seed, options.steps, str(options.work))
        for arm, seed in wanted
        if not (options.work / f"{arm}-{seed}.json").exists()
    ]
    versions = environment(budget_device="cpu")
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(train, jobs, chunksize=1)
    rows = [json.loads((options.work / f"{arm}-{seed}.json").read_text()) for arm, seed in wanted]
    loaded = material()
    identity: MetricIdentity = loaded.metric("search").identity
    table, noise = summary(rows, chosen=chosen, floor=loaded.floor("search"))
    found = profiles(chosen, loaded.images("train"))
    result = {
        "steps": options.steps,
        "seeds": SEEDS,
        "split": "search",
        "floor": loaded.floor("search"),
        "metric": asdict(identity),
        "data_digest": loaded.image_set.digest,
        "versions": versions,
        "noise": noise,
        "arms": table,
        "profiles": {arm: {name: round(value, 4) for name, value in figures.items()} for arm, figures in found.items()},
        "rank_correlation_with_excess": correlations(table, found),
        "trainings": rows,
    }
    (HERE / f"{options.result}.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = ["| op | change of excess | distances by seed | steps | policy |", "|---|---|---|---|---|"]
    for row in table:
        distances = ", ".join(f"{distance:.0f}" for distance in row["distances"])
        lines.append(f"| {row['arm']} | {row['change']:+.1%} | {distances} | {row['steps']} | {row['policy']} |")
    (HERE / f"{options.result}.md").write_text("\n".join(lines) + "\n")
    print(json.dumps(noise), json.dumps(result["rank_correlation_with_excess"], indent=2))


if __name__ == "__main__":
    main()
