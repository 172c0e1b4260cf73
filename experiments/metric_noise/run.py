"""Measures how far draws of images, and retrained models, spread each metric; writes result.json and table.md here.

Samples, features and the figures of each n are kept in --work as soon as they are made: run the command again to go on.
"""

import argparse
import functools
import json
import math
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autopv.metrics.estimate import Estimate
from autopv.metrics.extractors import load_extractor
from autopv.metrics.metric import as_float, default_input_size_px, estimate_of_features
from autopv.metrics.neighbours import neighbourhoods
from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.training.material import Material, Setup
from autopv.training.measure import sample_images

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
EXTRACTOR = "lite0"
DATA = "elpv"
FIRST_SEED = 301
"""Not a seed of the search, of its verification or of another experiment."""
NUMS_IMAGES = (64, 128, 256, 512, 1024, 2048)
NUM_SAMPLES = max(NUMS_IMAGES)
METRICS = ("fd_lite0", "kid_lite0", "precision", "recall", "density", "coverage")
REAL, GENERATED = "real", "generated"
HALF_OF_THE_SEEDS = 0.5


@functools.cache
def material() -> Material:
    return Material.load(Setup(data=DATA))


def train(job: tuple[int, int, int, str]) -> None:
    """Samples of one image-only training, written into the work folder."""
    seed, steps, num_samples, path = job
    torch.set_num_threads(1)
    loaded = material()
    images_NCHW = loaded.images("train")

    one = trainer_of_steps(images_NCHW, policy=Policy.image_only(), steps=steps, seed=seed)
    model = one.annealed_look(1.0)
    assert model is not None
    keep(Path(path), sample_images(model, num_images=num_samples, seed=seed))
    print(f"seed {seed}: {num_samples} samples", flush=True)


def keep(path: Path, values: Tensor) -> None:
    partial = path.with_suffix(".part.npy")
    np.save(partial, values.numpy())
    partial.replace(path)


def features_of(images_NCHW: Tensor, path: Path) -> Tensor:
    """Features of the images, extracted once; later ones come from the file."""
    if not path.exists():
        input_size_px = default_input_size_px(EXTRACTOR, image_size_px=images_NCHW.shape[-1])
        keep(path, load_extractor(EXTRACTOR, input_size_px=input_size_px).features(as_float(images_NCHW)))
        print(path.stem, flush=True)
    return torch.from_numpy(np.load(path))


def figures(real_ND: Tensor, generated_MD: Tensor) -> dict[str, Estimate]:
    """Every metric, with the influence of the images of either side as autopv tells it."""
    found = {}
    for distance in ("fd", "kid"):
        value, of_real, of_generated = estimate_of_features(real_ND, generated_MD, distance=distance)
        found[f"{distance}_lite0"] = Estimate(value, {REAL: of_real, GENERATED: of_generated})
    near = neighbourhoods(real_ND, generated_MD)
    return found | {
        "precision": Estimate.of_mean(near.precision_M, name=GENERATED),
        "recall": Estimate.of_mean(near.recall_N, name=REAL),
        "density": Estimate.of_mean(near.density_M, name=GENERATED),
        "coverage": Estimate.of_mean(near.coverage_N, name=REAL),
    }


def spread(draws: Sequence[dict[str, Estimate]], *, redrawn: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each metric's mean and deviation over the draws, beside the standard error told of the redrawn sides."""
    result = {}
    for metric in METRICS:
        told = [
            sum(
                float(one[metric].influences[side].square().sum()) for side in redrawn if side in one[metric].influences
            )
            for one in draws
        ]
        values = [one[metric].value for one in draws]
        result[metric] = {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values),
            "told": math.sqrt(statistics.fmean(told)),
            "draws": len(draws),
        }
    return result


def measure(job: tuple[int, int, str, list[int]]) -> None:
    """The spread of every metric at one n, over draws of generated images, of real ones, of both, and over seeds."""
    n, num_draws, work, seeds = job
    torch.set_num_threads(1)
    folder = Path(work)
    real_ND = torch.from_numpy(np.load(folder / "real.npy"))
    pool_MD = torch.from_numpy(np.load(folder / f"features-{seeds[0]}.npy"))
    generator = torch.Generator().manual_seed(n)

    def drawn(count: int) -> Tensor:
        return real_ND[torch.randperm(len(real_ND), generator=generator)[:count]]

    reference_ND = drawn(n)
    generated = [figures(reference_ND, draw) for draw in pool_MD.split(n)[:num_draws] if len(draw) == n]
    row: dict[str, Any] = {"n": n, "generated": spread(generated, redrawn=(GENERATED,))}
    # Of 2,624 images two draws of 2,048 are nearly the same: nothing could be learnt from them.
    if 2 * n <= len(real_ND):
        row["real"] = spread([figures(drawn(n), pool_MD[:n]) for _ in range(num_draws)], redrawn=(REAL,))
        # Drawn without putting back, from a finite set: as many images of an endless one would differ by more.
        for figure in row["real"].values():
            figure["sd"] /= math.sqrt(1 - n / len(real_ND))
        # Disjoint halves of one draw differ as independent draws do, so nothing is corrected here.
        halves = [drawn(2 * n).split(n) for _ in range(num_draws)]
        row["floor"] = spread([figures(one, other) for one, other in halves], redrawn=(REAL, GENERATED))
    by_seed = [figures(reference_ND, torch.from_numpy(np.load(folder / f"features-{seed}.npy"))[:n]) for seed in seeds]
    row["seeds"] = spread(by_seed, redrawn=())
    for metric in METRICS:
        # Each seed's samples are a draw too.
        sampling = row["generated"][metric]["sd"]
        row["seeds"][metric]["sd_alone"] = math.sqrt(max(0.0, row["seeds"][metric]["sd"] ** 2 - sampling**2))
    path = measured_path(folder, n, num_draws=num_draws, num_seeds=len(seeds))
    path.with_suffix(".part").write_text(json.dumps(row))
    path.with_suffix(".part").replace(path)
    print(f"n = {n}", flush=True)


def measured_path(folder: Path, n: int, *, num_draws: int, num_seeds: int) -> Path:
    return folder / f"n-{n}-draws-{num_draws}-seeds-{num_seeds}.json"


def enough(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each metric the least n whose draws spread it by half of what retraining does, or less, from there on."""
    found = {}
    for metric in METRICS:
        shares = {}
        for row in rows:
            draw, seed = row["generated"][metric]["sd"], row["seeds"][metric]["sd_alone"]
            # Seeds that differ by no more than their draws do tell nothing of retraining.
            shares[row["n"]] = draw / seed if seed > 0 else math.inf
        below = [n for n in shares if all(share <= HALF_OF_THE_SEEDS for m, share in shares.items() if m >= n)]
        found[metric] = {
            "draw_over_seed": {str(n): round(share, 3) if share < math.inf else None for n, share in shares.items()},
            "least_n": min(below, default=None),
        }
    return found


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = []
    for metric in METRICS:
        lines += [f"## {metric}", ""]
        lines.append("| n | value | floor | sd, generated redrawn | told / seen | sd, real redrawn | told / seen |")
        lines[-1] += " sd of the floor | told / seen | sd over seeds | of it, without the draw | draw / seed |"
        lines.append("|" + "---|" * 12)
        for row in result["rows"]:
            cells = [str(row["n"]), shown(row["generated"][metric]["mean"])]
            cells.append(shown(row["floor"][metric]["mean"]) if "floor" in row else "")
            for kind in ("generated", "real", "floor"):
                cells += [shown(row[kind][metric]["sd"]), ratio(row[kind][metric])] if kind in row else ["", ""]
            seeds = row["seeds"][metric]
            share = result["enough"][metric]["draw_over_seed"][str(row["n"])]
            cells += [shown(seeds["sd"]), shown(seeds["sd_alone"]), "" if share is None else f"{share:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
        least = result["enough"][metric]["least_n"]
        lines += [
            "",
            f"Draws spread it by at most half of what retraining does from n = {least or 'none of these'} on.",
            "",
        ]
    return "\n".join(lines)


def shown(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def ratio(figure: dict[str, float]) -> str:
    if figure["told"] == 0:
        return "not told"
    return f"{figure['told'] / figure['sd']:.2f}" if figure["sd"] > 0 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600, help="steps of each training (default 1600)")
    parser.add_argument("--seeds", type=int, default=8, help="trainings (default 8)")
    parser.add_argument("--draws", type=int, default=40, help="draws at each n, as far as the samples go (default 40)")
    parser.add_argument("--pool", type=int, default=32_768, help="samples of the first training, for the draws")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/metric_noise"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of result.json and table.md (default: this one)")
    options = parser.parse_args()
    require_one_thread()
    if options.seeds < 2 or options.pool < 2 * NUM_SAMPLES:
        raise SystemExit(
            f"--seeds must be at least 2 and --pool at least {2 * NUM_SAMPLES}: a deviation needs two draws"
        )
    folder = options.work / f"steps-{options.steps}-pool-{options.pool}"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = [FIRST_SEED + number for number in range(options.seeds)]
    versions = environment(budget_device="cpu")
    trainings = []
    for seed in seeds:
        path = folder / f"samples-{seed}.npy"
        if not path.exists():
            trainings.append((seed, options.steps, options.pool if seed == seeds[0] else NUM_SAMPLES, str(path)))
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(train, trainings, chunksize=1)
        loaded = material()
        features_of(loaded.image_set.images_NCHW, folder / "real.npy")
        for seed in seeds:
            features_of(torch.from_numpy(np.load(folder / f"samples-{seed}.npy")), folder / f"features-{seed}.npy")
        path_of = functools.partial(measured_path, folder, num_draws=options.draws, num_seeds=len(seeds))
        # The slowest first: the other process takes the rest meanwhile.
        jobs = [(n, options.draws, str(folder), seeds) for n in reversed(NUMS_IMAGES) if not path_of(n).exists()]
        pool.map(measure, jobs, chunksize=1)
    rows = [json.loads(path_of(n).read_text()) for n in NUMS_IMAGES]
    extractor = load_extractor(
        EXTRACTOR, input_size_px=default_input_size_px(EXTRACTOR, image_size_px=loaded.image_set.size_px)
    )
    result = {
        "data": DATA,
        "data_digest": loaded.image_set.digest,
        "splits_digest": loaded.splits.digest,
        "extractor_digest": extractor.digest,
        "input_size_px": extractor.input_size_px,
        "steps": options.steps,
        "seeds": seeds,
        "versions": versions,
        "enough": enough(rows),
        "rows": rows,
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "table.md").write_text(table(result))
    print(json.dumps({metric: found["least_n"] for metric, found in result["enough"].items()}))


if __name__ == "__main__":
    main()
