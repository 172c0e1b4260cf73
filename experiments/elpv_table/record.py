"""Records real learning curves of many policies into curves.jsonl here, one line per training as soon as it ends.

Interrupted recordings go on: what is in curves.jsonl is not trained again, an unfinished training goes on from its
last look in --work.
"""

import argparse
import functools
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch

from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.spaces import Space
from autopv.training.checkpoint import FILE_NAME, resume_checkpoint, save_checkpoint
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.verify.controls import default_controls

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
CURVES = HERE / "curves.jsonl"
SPACE = "stage2_expressive"
NUM_RANDOM = 60
SEEDS = (401, 402)
"""The search sees the first one, the delivered policy is judged on the other."""
FULL = 1800
"""Image-only steps that the compute of a full trial pays for: shorter ones rank policies by chance
(experiments/effect)."""
LOOKS = (1 / 12, 1 / 6, 1 / 3, 2 / 3, 1.0)
"""Annealed measurements, as shares of a full trial: 150, 300, 600, 1,200 and 1,800 steps."""
SIZE_PX = 16


@functools.cache
def policies() -> dict[str, Policy]:
    """Every policy by name: the controls of a search, then random policies of the default space."""
    space = Space.load(SPACE)
    named = {control.name: control.policy for control in default_controls()}
    return named | {f"random-{seed}": space.random_policy(seed) for seed in range(NUM_RANDOM)}


@functools.cache
def material() -> Material:
    """ELPV at 16 px."""
    return Material.load(Setup(data="elpv", size_px=SIZE_PX))


def train(task: tuple[str, int, Path]) -> dict[str, Any]:
    """One training with its looks, as a line of curves.jsonl."""
    name, seed, work = task
    torch.set_num_threads(1)
    loaded = material()
    policy = policies()[name]
    one = trainer_of_steps(
        loaded.images("train"), policy=policy, steps=FULL, seed=seed, execution=Execution(compiled=True)
    )
    folder = work / f"{name}-{seed}"
    path = folder / "rows.json"
    rows: list[dict[str, float]] = json.loads(path.read_text()) if path.exists() else []
    if (folder / FILE_NAME).exists():
        resume_checkpoint(one, folder)
    for look in LOOKS[len(rows) :]:
        model = one.annealed_look(look)
        assert model is not None
        distance = measure(model, loaded.metric("search"), seed=seed)
        rows.append({"look": round(look, 4), "steps": one.position, "distance": round(distance, 3)})
        save_checkpoint(one, folder)
        path.with_suffix(".part").write_text(json.dumps(rows))
        path.with_suffix(".part").replace(path)
    commit = environment(budget_device="cpu")["commit"]
    return {"policy": name, "seed": seed, "rows": rows, "described": policy.describe(), "commit": commit}


def recorded() -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in CURVES.read_text().splitlines()] if CURVES.exists() else []


def settings() -> dict[str, Any]:
    """What all lines have in common."""
    loaded = material()
    return {
        "model": "hvae/tiny",
        "size_px": SIZE_PX,
        "full_steps": FULL,
        "looks": [round(look, 4) for look in LOOKS],
        "space": SPACE,
        "space_digest": Space.load(SPACE).digest,
        "data_digest": loaded.image_set.digest,
        "split": "search",
        "metric": loaded.metric("search").identity.to_dict(),
        "floor": round(loaded.floor("search"), 3),
        "versions": environment(budget_device="cpu"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most", type=int, help="end after so many trainings; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/elpv_table"))
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    (HERE / "settings.json").write_text(json.dumps(settings(), indent=1) + "\n", encoding="utf-8")
    done = {(line["policy"], line["seed"]) for line in recorded()}
    wanted = [(name, seed, options.work) for name in policies() for seed in SEEDS if (name, seed) not in done]
    # A process for each training: what one leaves behind cannot slow the next one.
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(train, wanted[: options.most], chunksize=1):
            with CURVES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{line['policy']} {line['seed']}: {[row['distance'] for row in line['rows']]}", flush=True)


if __name__ == "__main__":
    main()
