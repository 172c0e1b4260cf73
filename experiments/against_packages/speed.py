"""How fast diffusion trains, ours against diffusers' at the same number of weights: writes speed/result.json.

Both take turns in one process, each time with a new model on the same images, for the same CPU time. Whole steps are
timed: batch, loss, gradients, optimiser, average.
"""

import argparse
import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from opponents import DIFFUSION_BATCH, OUR_SIZE, Trained, train_diffusion
from run import OURS, material, train_ours

from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent


def ours(images_NCHW: torch.Tensor, *, cpu_s: float, seed: int) -> Trained:
    """Our `tiny` preset with batches as large as theirs."""
    setting = {"batch_size": DIFFUSION_BATCH}
    return train_ours(images_NCHW, setting=setting, cpu_s=cpu_s, seed=seed, ours=OURS["diffusion"])


def theirs(images_NCHW: torch.Tensor, *, cpu_s: float, seed: int) -> Trained:
    """diffusers' UNet2DModel."""
    return train_diffusion(images_NCHW, setting={"size": OUR_SIZE, "schedule": "cosine"}, cpu_s=cpu_s, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="CPU seconds a training (default 20)")
    parser.add_argument("--work", type=Path, default=Path("runs/against_packages"))
    options = parser.parse_args()
    require_one_thread()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    images_NCHW = material("elpv", options.work).images("train")
    sides = {"autopv": ours, "diffusers": theirs}
    rounds: list[dict[str, float]] = []
    weights: dict[str, int] = {}
    for number in range(options.rounds):
        speeds = {}
        # Who comes first changes, for a machine that gets slower or faster.
        for name in sorted(sides, reverse=number % 2 == 1):
            trained = sides[name](images_NCHW, cpu_s=options.seconds, seed=number)
            speeds[name] = round(trained.steps / trained.cpu_s, 2)
            weights[name] = trained.num_params
        rounds.append(speeds)
        print(json.dumps(speeds), flush=True)
    ratios = sorted(row["autopv"] / row["diffusers"] for row in rounds)
    result = {
        "size_px": images_NCHW.shape[-1],
        "batch_size": DIFFUSION_BATCH,
        "threads": 1,
        "weights": weights,
        "steps_per_cpu_s": rounds,
        "ratio": {
            name: round(of(ratios), 3) for name, of in (("median", statistics.median), ("low", min), ("high", max))
        },
        "versions": environment(budget_device="cpu") | {"diffusers": version("diffusers")},
    }
    out = HERE / "speed"
    out.mkdir(exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["ratio"]))


if __name__ == "__main__":
    main()
