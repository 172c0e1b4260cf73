"""Trains every candidate with the same compute on the same seeds, image-only; writes result.json and table.md.

Every training is kept in --work as soon as it ends: run the command again to go on.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from candidates import AS_IT_IS, CANDIDATES, MODULES

from autopv.models.base import build_model
from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import new_trainer

HERE = Path(__file__).parent
SIZE_PX = 16
STEPS = {"hvae": 1800, "refine": 1800, "diffusion": 1200, "vq": 700}
"""Of the preset as it is; all candidates get their compute, unless they say otherwise."""
PRESET = "candidate"

Job = tuple[str, str, str, int, str]
"""Family, name of the candidate, domain, seed, path of the row."""


def train(job: Job) -> None:
    """One training, measured on the search split and written as a row into the work folder."""
    family, name, domain, seed, path_text = job
    torch.set_num_threads(1)
    module, candidate = MODULES[family], CANDIDATES[family][name]
    module.PRESETS[PRESET] = candidate.preset
    model_class = type(build_model(family, preset="tiny", size_px=SIZE_PX, channels=1, num_frames=1, seed=0))
    model_class.preset_sizes_px = {n: preset.sizes_px for n, preset in module.PRESETS.items()}
    for constant, value in candidate.constants.items():
        setattr(module, constant, value)
    material = Material.load(Setup(data=domain, size_px=SIZE_PX))
    images_NCHW = material.images("train")
    usual = TrainingPlan.asked(model=family)

    def trainer(preset: str, plan: TrainingPlan) -> Trainer:
        return new_trainer(
            images_NCHW,
            model=family,
            preset=preset,
            policy=Policy.image_only(),
            plan=plan,
            seed=seed,
            execution=Execution(compiled=True),
        )

    total_flops = candidate.compute * STEPS[family] * trainer("tiny", usual).flops_per_step
    one = trainer(PRESET, replace(usual, total_flops=total_flops, **candidate.plan))
    started_s = time.process_time()
    model = one.annealed_look(1.0)
    assert model is not None
    row = {
        "family": family,
        "candidate": name,
        "domain": domain,
        "seed": seed,
        "steps": one.position,
        "cpu_s": round(time.process_time() - started_s, 1),
        "weights": sum(p.numel() for p in model.parameters()),
        "distance": measure(model, material.metric("search"), seed=seed),
        "commit": environment(budget_device="cpu")["commit"],
    }
    Path(path_text).write_text(json.dumps(row))
    print(json.dumps(row), flush=True)


def compared(rows: Sequence[dict[str, Any]], *, floor: float) -> list[dict[str, Any]]:
    """The candidates of a family on a domain, best first: mean change of excess against the preset as it is."""

    def logs(name: str) -> dict[int, float]:
        return {r["seed"]: math.log(max(1.0, r["distance"] - floor)) for r in rows if r["candidate"] == name}

    reference, found = logs(AS_IT_IS), []
    for name in dict.fromkeys(row["candidate"] for row in rows):
        own, its = logs(name), [row for row in rows if row["candidate"] == name]
        by_seed = {seed: math.expm1(own[seed] - reference[seed]) for seed in own if seed in reference}
        found.append(
            {
                "candidate": name,
                "change": math.expm1(statistics.fmean(math.log1p(change) for change in by_seed.values())),
                "by_seed": list(by_seed.values()),
                "excess": [row["distance"] - floor for row in its],
                "steps": its[0]["steps"],
                "weights": its[0]["weights"],
                "cpu_s": statistics.fmean(row["cpu_s"] for row in its),
            }
        )
    return sorted(found, key=lambda row: row["change"])


def table(title: str, found: Sequence[dict[str, Any]]) -> str:
    lines = [f"### {title}", "", "| candidate | change of excess | by seed | excess | steps | weights | CPU s |"]
    lines.append("|" + "---|" * 7)
    for row in found:
        by_seed = ", ".join(f"{change:+.0%}" for change in row["by_seed"])
        excess = ", ".join(f"{value:.0f}" for value in row["excess"])
        cells = [row["candidate"], f"{row['change']:+.1%}", by_seed, excess, f"{row['steps']:,}"]
        lines.append("| " + " | ".join([*cells, f"{row['weights'] / 1e6:.2f} M", f"{row['cpu_s']:.0f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[[], *CANDIDATES], help="default: all")
    parser.add_argument("--only", nargs="+", default=[], help="candidates, beside the preset as it is; default: all")
    parser.add_argument("--domains", nargs="+", default=["elpv", "textures"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[301, 302])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/presets"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    jobs = []
    for domain in options.domains:
        for seed in options.seeds:
            for family in options.families or CANDIDATES:
                for number, name in enumerate(CANDIDATES[family]):
                    if options.only and name not in (AS_IT_IS, *options.only):
                        continue
                    path = options.work / f"{family}-{number}-{domain}-{seed}.json"
                    jobs.append((family, name, domain, seed, str(path)))
    missing = [job for job in jobs if not Path(job[-1]).exists()]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for _ in pool.imap_unordered(train, missing, chunksize=1):
            pass
    rows = [json.loads(Path(job[-1]).read_text()) for job in jobs]
    result: dict[str, Any] = {"steps": STEPS, "size_px": SIZE_PX, "split": "search", "floors": {}, "comparisons": {}}
    tables = []
    for domain in options.domains:
        floor = result["floors"][domain] = Material.load(Setup(data=domain, size_px=SIZE_PX)).floor("search")
        for family in options.families or CANDIDATES:
            found = compared([r for r in rows if (r["family"], r["domain"]) == (family, domain)], floor=floor)
            title = f"{family}, {domain}, the compute of {STEPS[family]:,} steps"
            result["comparisons"][title] = found
            tables.append(table(title, found))
    result |= {"trainings": rows, "versions": environment(budget_device="cpu")}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "table.md").write_text("\n\n".join(tables) + "\n")
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
