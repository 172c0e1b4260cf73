"""autopv against random policies at equal cost, with real training; then the winners on fresh seeds.

Both searches run at once, one worker each, so that whatever slows the machine slows both.
Interrupted runs go on: a search by `autopv resume`, the verification training by training.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.search.study_file import read_records
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.verify.blocks import fresh_seeds
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.statistics import compare_arms

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
SIZE_PX = 16
STEPS = 1800
"""Of a trial and of a verification: shorter trainings rank policies by chance (experiments/effect)."""
SEARCHES = {
    "autopv": (),
    "random": ("--sampler", "random", "--stopping", "none", "--repeats", "0", "--screen", "0"),
}
LUCKIEST = "random, luckiest"
"""The random policy with the least distance: what a search without a belief delivers of the same trials."""
NUM_SEEDS = 8
_SEED_OF_VERIFICATION = 4711


def search(name: str, *, budget: str, work: Path, flags: tuple[str, ...], seed: int) -> subprocess.Popen[bytes] | None:
    """One search on its way to its end, from wherever it stands; None if it has ended."""
    out = work / name
    if (out / "result.json").exists():
        return None
    command = [sys.executable, "-m", "autopv.cli"]
    if (out / "run.json").exists():
        command += ["resume", str(out)]
    else:
        command += ["search", "--data", "elpv", "--size", str(SIZE_PX), "--budget", budget, "--seeds", "1"]
        command += ["--workers", "1", "--trial-steps", str(STEPS), "--seed", str(seed), "--out", str(out), *flags]
    with (work / f"{name}.txt").open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


def luckiest(run: Path) -> Policy:
    """The policy that is no control and had the least distance."""
    trials = [r for r in read_records(run / "study.db") if r.control is None and r.distance is not None]
    return min(trials, key=lambda trial: trial.distance or 0.0).policy


def verify(task: tuple[str, dict[str, Any], int]) -> dict[str, Any]:
    """One training of a winner from a fresh seed, measured on the final split."""
    arm, policy, seed = task
    torch.set_num_threads(1)
    material = Material.load(Setup(data="elpv", size_px=SIZE_PX))
    trainer = trainer_of_steps(
        material.images("train"),
        policy=Policy.from_dict(policy),
        steps=STEPS,
        seed=seed,
        execution=Execution(compiled=True),
    )
    model = trainer.annealed_look(1.0)
    assert model is not None
    return {"arm": arm, "seed": seed, "distance": measure(model, material.metric("final"), seed=seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="140cpu-min", help="of each search; two hours of it search")
    parser.add_argument("--sampler", help="of autopv; default: its own default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/elpv_search"))
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    running = []
    for name, flags in SEARCHES.items():
        own = ("--sampler", options.sampler) if options.sampler and name == "autopv" else ()
        running.append(search(name, budget=options.budget, work=options.work, flags=(*flags, *own), seed=options.seed))
    exits = [process.wait() for process in running if process is not None]
    if any(exits):
        raise SystemExit(f"a search failed; see the .txt files in {options.work}, mend it and run this again")
    results = {name: json.loads((options.work / name / "result.json").read_text()) for name in SEARCHES}
    arms = {IMAGE_ONLY: Policy.image_only()}
    arms |= {name: Policy.load(options.work / name / "best_found.json") for name in SEARCHES}
    if (policy := luckiest(options.work / "random")).digest != arms["random"].digest:
        arms[LUCKIEST] = policy
    path = options.work / "verified.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(line["arm"], line["seed"]) for line in lines}
    seeds = fresh_seeds(_SEED_OF_VERIFICATION, num_seeds=NUM_SEEDS)
    wanted = [
        (arm, policy.to_dict(), seed) for seed in seeds for arm, policy in arms.items() if (arm, seed) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        for line in pool.imap(verify, wanted, chunksize=1):
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(line, flush=True)
    floor = results["autopv"]["floors"]["final"]
    by_run = {(line["arm"], line["seed"]): line["distance"] for line in lines}
    distances = {arm: [by_run[arm, seed] for seed in seeds] for arm in arms}
    comparisons = {
        reference: [c.to_dict() for c in compare_arms(distances, reference=reference, floor=floor)]
        for reference in arms
        if reference != "autopv"
    }
    record = {
        "budget": options.budget,
        "sampler": results["autopv"]["settings"]["sampler"],
        "seed": options.seed,
        "steps": STEPS,
        "floor": floor,
        "policies": {arm: policy.describe() for arm, policy in arms.items()},
        "searched": {
            name: {
                "spent_s": results[name]["spent_by_phase_s"],
                "trials": len(results[name]["trials"]),
                "complete": sum(trial["state"] == "complete" for trial in results[name]["trials"]),
                "best_found": results[name]["best_found"],
            }
            for name in SEARCHES
        },
        "distances": distances,
        "comparisons": comparisons,
        "searched_with": json.loads((options.work / "autopv" / "run.json").read_text())["versions"],
        "told_with": environment(budget_device="cpu"),
    }
    (HERE / "result.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({**record, "told_with": None}, indent=1))


if __name__ == "__main__":
    main()
