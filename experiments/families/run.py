"""All families side by side: excess at equal compute with image-only and with policies, speeds and memory.

Every training is kept in --work as soon as it ends: run the command again to go on. Writes result.json and table.md.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autopv.models.base import build_model
from autopv.search.environment import environment
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan

sys.path.append(str(Path(__file__).parents[1] / "effect"))  # the policies that every family's study trains with
from arms import IMAGE_ONLY, arms

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import new_trainer, sampling_flops

HERE = Path(__file__).parent
SIZE_PX = 16
FAMILIES = (("hvae", "tiny"), ("refine", "tiny"), ("diffusion", "tiny"), ("vq", "tiny"), ("vq", "tiny-masked"))
POLICIES = ("noise", "blur", "gamma")
"""Of the arms of experiments/effect, beside image-only; all of three frames."""
CHOICE_SEED = 501
"""Which of the policies is a family's best is decided on this seed; the others, on which only that one and image-only
are trained, tell its excess."""

Job = tuple[str, str, str, int, int, str]
"""Family, preset, arm, seed, steps of `hvae` `tiny` whose compute it gets, path of the row."""


def train(job: Job) -> None:
    """One training, measured on the search split and written as a row into the work folder."""
    family, preset, arm, seed, steps, path_text = job
    torch.set_num_threads(1)
    material, policy = Material.load(Setup(data="elpv", size_px=SIZE_PX)), arms()[arm]
    images_NCHW = material.images("train")
    reference = build_model("hvae", preset="tiny", size_px=SIZE_PX, channels=1, num_frames=1, seed=0)
    plan = TrainingPlan.asked(model=family)
    trainer = new_trainer(
        images_NCHW,
        model=family,
        preset=preset,
        policy=policy,
        plan=replace(plan, total_flops=3 * steps * plan.batch_size * reference.flops()),
        seed=seed,
        execution=Execution(compiled=True),
    )
    started_s = time.process_time()
    model = trainer.annealed_look(1.0)
    assert model is not None
    row = {
        "family": f"{family} {preset}",
        "arm": arm,
        "seed": seed,
        "steps": trainer.position,
        "cpu_s": round(time.process_time() - started_s, 1),
        "weights": sum(p.numel() for p in model.parameters()),
        "distance": measure(model, material.metric("search"), seed=seed),
        "sampling_mflops": sampling_flops(model) / 1e6,
    }
    Path(path_text).write_text(json.dumps(row))
    print(json.dumps(row), flush=True)


def costs(family: str, preset: str, *, num_frames: int) -> dict[str, Any]:
    """A row of experiments/model_cost, uncompiled, in a process of its own."""
    command = [sys.executable, str(HERE.parent / "model_cost" / "run.py"), "--model", family, "--preset", preset]
    command += ["--size", str(SIZE_PX), "--row", str(num_frames), "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def run_all(jobs: Sequence[Job], *, processes: int) -> list[dict[str, Any]]:
    """The rows of the jobs, in their order; those that are not there yet are trained first."""
    missing = [job for job in jobs if not Path(job[-1]).exists()]
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(train, missing, chunksize=1):
            pass
    return [json.loads(Path(job[-1]).read_text()) for job in jobs]


def best_policies(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Of each family: the policy with the least distance on the seed that chooses."""
    offered = [row for row in rows if row["arm"] != IMAGE_ONLY]
    families = dict.fromkeys(row["family"] for row in offered)
    return {
        family: min((row for row in offered if row["family"] == family), key=lambda row: row["distance"])["arm"]
        for family in families
    }


def told(rows: Sequence[dict[str, Any]], *, best: dict[str, str], floor: float) -> list[dict[str, Any]]:
    """Of each family: image-only and its best policy, their excess on the seeds that did not choose it."""
    found = []
    for family, policy in best.items():
        for arm in (IMAGE_ONLY, policy):
            judged = [row for row in rows if (row["family"], row["arm"]) == (family, arm)]
            values = [max(1.0, row["distance"] - floor) for row in judged]
            found.append(
                {
                    "family": family,
                    "policy": arm,
                    "excess": values,
                    "mean": math.exp(statistics.fmean(map(math.log, values))),
                    "cpu_s": statistics.fmean(row["cpu_s"] for row in judged),
                    **{key: judged[0][key] for key in ("steps", "weights", "sampling_mflops")},
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3600, help="of hvae's tiny preset; all families get their compute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[502, 503], help="that judge")
    parser.add_argument("--only", nargs="+", choices=[family for family, _ in FAMILIES], help="of these families")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/families"))
    options = parser.parse_args()
    require_one_thread()
    if CHOICE_SEED in options.seeds:
        parser.error(f"--seeds must not hold {CHOICE_SEED}, which chooses the policies")
    options.work.mkdir(parents=True, exist_ok=True)

    def job(family: tuple[str, str], arm: str, seed: int) -> Job:
        path = options.work / f"{'-'.join(family)}-{arm}-{seed}-{options.steps}.json"
        return (*family, arm, seed, options.steps, str(path))

    families = [family for family in FAMILIES if not options.only or family[0] in options.only]
    chosen_from = run_all(
        [job(family, arm, CHOICE_SEED) for family in families for arm in (IMAGE_ONLY, *POLICIES)],
        processes=options.processes,
    )
    best = best_policies(chosen_from)
    judged = run_all(
        [
            job(family, arm, seed)
            for seed in options.seeds
            for family in families
            for arm in (IMAGE_ONLY, best[" ".join(family)])
        ],
        processes=options.processes,
    )
    floor = Material.load(Setup(data="elpv", size_px=SIZE_PX)).floor("search")
    found = told(judged, best=best, floor=floor)
    lines = [
        "| family | policy | excess | by seed | CPU s | training steps | weights | training steps/s | peak MiB | "
        "images/s | MFLOPs an image |",
        "|" + "---|" * 11,
    ]
    for row in found:
        num_frames = arms()[row["policy"]].num_frames
        family, preset = row["family"].split()
        row["cost"] = costs(family, preset, num_frames=num_frames)
        by_seed = ", ".join(f"{value:.0f}" for value in row["excess"])
        cells = [row["family"], row["policy"], f"{row['mean']:.0f}", by_seed]
        cells += [f"{row['cpu_s']:.0f}", f"{row['steps']:,}"]
        cells += [f"{row['weights'] / 1e6:.2f} M", f"{row['cost']['steps_per_s']:.1f}", str(row["cost"]["peak_mib"])]
        lines.append(
            "| " + " | ".join([*cells, str(row["cost"]["samples_per_s"]), f"{row['sampling_mflops']:.0f}"]) + " |"
        )
    result = {"size_px": SIZE_PX, "hvae_steps": options.steps, "split": "search", "floor": floor, "families": found}
    result |= {
        "policies": {arm: arms()[arm].describe() for arm in (IMAGE_ONLY, *POLICIES)},
        "trainings": [*chosen_from, *judged],
    }
    result |= {"versions": environment(budget_device="cpu")}
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
