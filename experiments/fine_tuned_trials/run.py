"""Trials that go on from one model trained on random policies, against the recorded trials from scratch.

Writes trials.jsonl as it goes (run it again to go on), then result.json and table.md, into --out.
"""

import argparse
import json
import math
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common_trunk import CommonTrunk
from safetensors.torch import load_file, save_file

from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan

sys.path.append(str(Path(__file__).parents[1] / "elpv_table"))  # the recorded trials, and how they are compared
from surrogate import correlation, load, log_excess, mean_log_excess

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
SIZE_PX = 16
FULL = 1800
"""Image-only steps of a recorded trial."""
TRUNK_STEPS = 3600
"""What the common model is trained for, once: two trials."""
SHARE = 1 / 3
"""Of a trial's compute, for each fine-tuning; a look from scratch after as much tells nothing."""
SEEDS = (401, 402)
TRUNK_SEED = 77


def trunk_path(work: Path) -> Path:
    return work / "trunk.safetensors"


def train_trunk(work: Path, *, most_weight: float) -> None:
    """The common model, kept as the weights of each length; nothing if it is there."""
    if trunk_path(work).exists():
        return
    torch.set_num_threads(1)
    trunk = CommonTrunk(Material.load(Setup(data="elpv", size_px=SIZE_PX)).images("train"), seed=TRUNK_SEED)
    losses = trunk.train(TRUNK_STEPS, most_weight=most_weight)
    tensors = {
        f"{num_frames}/{name}": trunk.averages[parameter].contiguous().clone()
        for num_frames, model in trunk.models.items()
        for name, parameter in model.named_parameters()
    }
    save_file(tensors, trunk_path(work))
    print(f"common model: loss {losses[0]:.2f} at first, {sum(losses[-100:]) / 100:.3f} in the end", flush=True)


def fine_tune(task: tuple[str, str, int, str]) -> dict[str, Any]:
    """One trial from the common model; a line of trials.jsonl."""
    name, described, seed, work = task
    torch.set_num_threads(1)
    material, policy = Material.load(Setup(data="elpv", size_px=SIZE_PX)), Policy.parse(described)
    images_NCHW = material.images("train")

    one = trainer_of_steps(
        images_NCHW,
        policy=policy,
        steps=SHARE * FULL,
        seed=seed,
        # The KL terms are at full weight already.
        plan=replace(TrainingPlan.asked(model="hvae"), loss_warmup_steps=0),
        execution=Execution(compiled=True),
    )
    state, prefix = one.learner.tensors(), f"{policy.num_frames}/"
    for key, value in load_file(trunk_path(Path(work))).items():
        if key.startswith(prefix):
            state[f"model/{key.removeprefix(prefix)}"] = value
            state[f"ema/{key.removeprefix(prefix)}"] = value.clone()
    one.learner.restore(state)
    model = one.annealed_look(1.0)
    assert model is not None
    distance = measure(model, material.metric("search"), seed=seed)
    return {"policy": name, "seed": seed, "steps": one.position, "distance": round(distance, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS[:1], help="of the fine-tunings (default 401)")
    parser.add_argument("--most", type=int, help="end after so many trials; default: all")
    parser.add_argument("--most-weight", type=float, default=0.03, help="of a pseudo frame in the common model's loss")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--work", type=Path, default=Path("runs/fine_tuned_trials"))
    options = parser.parse_args()
    require_one_thread()
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    train_trunk(options.work, most_weight=options.most_weight)
    trials = options.out / "trials.jsonl"
    curves, policies, floor = load()
    lines = [json.loads(line) for line in trials.read_text().splitlines()] if trials.exists() else []
    done = {(line["policy"], line["seed"]) for line in lines}
    wanted = [
        (name, policies[name].describe(), seed, str(options.work))
        for seed in options.seeds
        for name in curves
        if (name, seed) not in done
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for line in pool.imap_unordered(fine_tune, wanted[: options.most], chunksize=1):
            with trials.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(line, flush=True)

    tuned = {
        seed: {line["policy"]: math.log(max(1.0, line["distance"] - floor)) for line in lines if line["seed"] == seed}
        for seed in options.seeds
    }
    names = [name for name in curves if all(name in by_name for by_name in tuned.values())]
    ends = [mean_log_excess(curves[name], floor=floor) for name in names]
    rows: dict[str, dict[str, float]] = {}
    for seed, by_name in tuned.items():
        rows[f"fine-tuned for a third, seed {seed}"] = correlation([by_name[name] for name in names], ends)
    for look in (0.3333, 0.6667, 1.0):
        for seed, other in (SEEDS, SEEDS[::-1]):
            early = [log_excess(curves[name][seed], floor=floor, look=look) for name in names]
            late = [log_excess(curves[name][other], floor=floor) for name in names]
            rows[f"from scratch, look at {look:.2f} on seed {seed}, with the other seed's end"] = correlation(
                early, late
            )
    for seed, by_name in tuned.items():
        for other in SEEDS:
            late = [log_excess(curves[name][other], floor=floor) for name in names]
            rows[f"fine-tuned for a third, seed {seed}, with the end of {other}"] = correlation(
                [by_name[name] for name in names], late
            )
    text = ["| look | rank correlation | 95% over policies |", "|---|---|---|"]
    text += [f"| {what} | {row['rho']:.2f} | {row['low']:.2f} to {row['high']:.2f} |" for what, row in rows.items()]
    result = {
        "policies": len(names),
        "trunk_steps": TRUNK_STEPS,
        "most_weight": options.most_weight,
        "share": SHARE,
        "floor": floor,
        "correlations": rows,
        "versions": environment(budget_device="cpu"),
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "table.md").write_text("\n".join(text) + "\n")
    print("\n".join(text))


if __name__ == "__main__":
    main()
