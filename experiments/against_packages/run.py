"""Trains our models and two from packages for equal CPU time; writes result.json, table.md and pictures here.

Every training is kept in --work as soon as it ends: run the command again to go on.
"""

import argparse
import functools
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opponents import DIFFUSION_SETTINGS, UNTIMED_STEPS, VAE_SETTINGS, Trained, train_diffusion, train_vae
from safetensors.torch import load_file, save_file
from torch import Tensor

from autopv.data.tensors import to_float, to_uint8
from autopv.metrics.extractors import load_extractor
from autopv.metrics.memorisation import memorisation
from autopv.metrics.metric import distance_of_features
from autopv.metrics.neighbours import neighbourhoods
from autopv.policy import Layer, Policy
from autopv.report.pictures import write_samples
from autopv.search.environment import environment
from autopv.training.material import Material, Setup
from autopv.training.measure import sample_images
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from digits import digits_file
from one_thread import require_one_thread
from trainers import new_trainer

HERE = Path(__file__).parent
SIZES_PX = {"elpv": 32, "digits": 8}
VIDEOS = {
    32: Policy(num_frames=3, frame_loss_weight=0.06, layers=(Layer(op="gamma", magnitude=0.4, frames=(1, 2)),)),
    8: Policy(num_frames=3, frame_loss_weight=0.06, layers=(Layer(op="pixelate", magnitude=0.5, frames=(1, 2)),)),
}
"""By size_px: one of the best ops of experiments/single_ops, and the best on the digits in experiments/effect."""


@dataclass(frozen=True)
class Ours:
    """One of our families at `tiny`, on images or on pseudo videos, and what of its plan may differ, by name."""

    model: str
    on_videos: bool
    settings: Mapping[str, Mapping[str, float]]


KL_WEIGHTS = {f"KL weight {weight:g}": {"kl_weight": weight} for weight in (1.0, 2.0, 4.0)}
LEARNING_RATES = {f"rate {rate:g}": {"learning_rate": rate} for rate in (1e-3, 2e-3, 4e-3)}
OURS = {
    "hvae": Ours("hvae", False, KL_WEIGHTS),
    "hvae, pseudo videos": Ours("hvae", True, KL_WEIGHTS),
    "refine": Ours("refine", False, KL_WEIGHTS),
    "diffusion": Ours("diffusion", False, LEARNING_RATES),
    "diffusion, pseudo videos": Ours("diffusion", True, LEARNING_RATES),
}
CHOICE_SEED = 0
"""Of the brief trainings; no seed of the comparison."""
HEADROOM = 1.15
"""Our schedules need a length in steps beforehand, and a shared machine may speed up."""
CALIBRATION = 0.02
"""Of the CPU time, in addition, to find that length."""
ROW, ROWS = 12, 2


def train_ours(images_NCHW: Tensor, *, setting: Mapping[str, Any], cpu_s: float, seed: int, ours: Ours) -> Trained:
    """One of our models, its defaults but for the setting; it decays when just the decay's time is left.

    setting: what of the plan differs.
    """
    policy = VIDEOS[images_NCHW.shape[-1]] if ours.on_videos else Policy.image_only()

    def trainer(*, steps: float) -> Trainer:
        plan = replace(TrainingPlan.asked(model=ours.model), **setting)
        # The half step beyond keeps rounding from taking one away.
        one = new_trainer(images_NCHW, model=ours.model, policy=policy, plan=plan, seed=seed)
        plan = replace(plan, total_flops=(steps + 0.5) * one.flops_per_step)
        return new_trainer(images_NCHW, model=ours.model, policy=policy, plan=plan, seed=seed)

    one = trainer(steps=HEADROOM * cpu_s / _seconds_per_step(trainer(steps=1e6), cpu_s=CALIBRATION * cpu_s))
    trunk = 1 - one.plan.decay_fraction
    one.train_until(UNTIMED_STEPS / one.total_steps)
    start_s = time.process_time()
    one.train_until(trunk, should_stop=lambda: time.process_time() - start_s >= trunk * cpu_s)
    end_step = min(one.total_steps, math.ceil(one.position / trunk))
    model = one.annealed_look(end_step / one.total_steps)
    spent_s = time.process_time() - start_s
    assert model is not None
    return Trained(
        samplers={"own": lambda num: sample_images(model, num_images=num, seed=seed)},
        num_params=sum(p.numel() for p in model.parameters()),
        steps=one.position,
        images_per_step=one.plan.batch_size,
        cpu_s=spent_s,
    )


def _seconds_per_step(one: Trainer, *, cpu_s: float) -> float:
    one.train_until(UNTIMED_STEPS / one.total_steps)
    start_s, start = time.process_time(), one.position
    one.train_until(1.0, should_stop=lambda: one.position > start and time.process_time() - start_s >= cpu_s)
    return (time.process_time() - start_s) / (one.position - start)


ARMS: dict[str, tuple[Callable[..., Trained], Mapping[str, Mapping[str, Any]]]] = {
    **{arm: (functools.partial(train_ours, ours=ours), ours.settings) for arm, ours in OURS.items()},
    "VAE (pythae)": (train_vae, VAE_SETTINGS),
    "diffusion (diffusers)": (train_diffusion, DIFFUSION_SETTINGS),
}
"""How each arm is trained, and its settings, among which the brief trainings choose."""


@functools.cache
def material(domain: str, work: Path) -> Material:
    """The images: ELPV, or the digits, written into the work folder first."""
    if domain == "elpv":
        return Material.load(Setup(data="elpv", size_px=SIZES_PX[domain]))
    return Material.load(Setup(data=str(digits_file(work)), size_px=SIZES_PX[domain]))


@functools.cache
def real_features(domain: str, work: Path, split: str) -> Tensor:
    """Features of the real images of one split, by the metric's network."""
    return extractor(domain, work).features(to_float(material(domain, work).images(split)))


@functools.cache
def extractor(domain: str, work: Path) -> Any:
    """The metric's network."""
    identity = material(domain, work).metric("search").identity
    return load_extractor(identity.extractor, input_size_px=identity.input_size_px)


def train(job: tuple[str, str, str, int, float, str]) -> None:
    """One training, sampled and measured on the search split, written as a row and pictures into the work folder."""
    domain, arm, setting, seed, minutes, path_text = job
    path = Path(path_text)
    torch.set_num_threads(1)
    loaded = material(domain, path.parent)
    function, settings = ARMS[arm]
    trained = function(loaded.images("train"), setting=settings[setting], cpu_s=60 * minutes, seed=seed)
    row = {
        "domain": domain,
        "arm": arm,
        "setting": setting,
        "seed": seed,
        "minutes": minutes,
        "cpu_s": round(trained.cpu_s, 1),
        "steps": trained.steps,
        "images_per_step": trained.images_per_step,
        "params": trained.num_params,
        "commit": environment(budget_device="cpu")["commit"],
        "by_sampler": {},
    }
    pictures = {}
    for name, sampler in trained.samplers.items():
        torch.manual_seed(seed)
        np.random.seed(seed)  # scikit-learn's mixture draws from NumPy's global generator
        start_s = time.process_time()
        samples = sampler(loaded.choice.num_generated).contiguous()
        sampling_s = time.process_time() - start_s
        row["by_sampler"][name] = {
            **measures(samples, domain=domain, work=path.parent),
            "sampled_per_cpu_s": float(f"{len(samples) / sampling_s:.3g}"),
        }
        pictures[name] = to_uint8(samples[spread(len(samples), take=ROW * ROWS)])
    save_file(pictures, path.with_suffix(".safetensors"))
    path.with_suffix(".part").write_text(json.dumps(row))
    path.with_suffix(".part").replace(path)
    print(json.dumps(row), flush=True)


def measures(images_NCHW: Tensor, *, domain: str, work: Path) -> dict[str, float]:
    """The metric's distance, and what else the same features say: kernel distance, coverage, closeness to training."""
    loaded = material(domain, work)
    real, seen = real_features(domain, work, "search"), real_features(domain, work, "train")
    generated = extractor(domain, work).features(images_NCHW)
    around = neighbourhoods(real, generated[: len(real)])
    copied = memorisation(generated, seen, held_out_KD=real)
    return {
        "distance": round(loaded.metric("search").distance(images_NCHW), 1),
        "kid": round(distance_of_features(real, generated, distance="kid"), 2),
        "precision": round(around.precision, 3),
        "coverage": round(around.coverage, 3),
        "near_training": round(copied.share_near, 3),
        "copies": copied.num_copies,
    }


def lines_of(domain: str, choices: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """Arm, setting and sampler of each line of the table; the setting did best in the brief trainings, so sampled."""
    found = {}
    for arm in dict.fromkeys(row["arm"] for row in choices):
        brief = [row for row in choices if (row["domain"], row["arm"]) == (domain, arm)]
        for number, sampler in enumerate(brief[0]["by_sampler"]):
            best = min(brief, key=lambda row: row["by_sampler"][sampler]["distance"])
            found[arm if number == 0 else f"{arm}, {sampler}"] = (arm, best["setting"], sampler)
    return found


def run_all(jobs: Sequence[tuple[str, str, str, int, float]], *, work: Path, processes: int) -> list[dict[str, Any]]:
    """The rows of the jobs, in their order; those that the work folder does not hold are trained first."""
    paths = [
        work / f"{domain}-{arm}-{setting}-{seed}-{minutes:g}min.json".replace(" ", "_")
        for domain, arm, setting, seed, minutes in jobs
    ]
    missing = [(*job, str(path)) for job, path in zip(jobs, paths, strict=True) if not path.exists()]
    if missing:
        # A process for each training: what one leaves behind cannot slow the next one.
        with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
            pool.map(train, missing, chunksize=1)
    return [json.loads(path.read_text()) | {"path": str(path)} for path in paths]


def summary(rows: Sequence[Mapping[str, Any]], *, sampler: str, floor: float) -> dict[str, Any]:
    """One line of the table: means over the seeds."""
    found = [row["by_sampler"][sampler] for row in rows]
    mean = {key: statistics.fmean(measured[key] for measured in found) for key in found[0]}
    return {
        "setting": rows[0]["setting"],
        "sampler": sampler,
        "params": rows[0]["params"],
        "steps": [row["steps"] for row in rows],
        "images_per_step": rows[0]["images_per_step"],
        "cpu_s": [row["cpu_s"] for row in rows],
        "distances": [measured["distance"] for measured in found],
        "excess": round(mean["distance"] - floor, 1),
        "kid": round(mean["kid"], 2),
        "precision": round(mean["precision"], 3),
        "coverage": round(mean["coverage"], 3),
        "near_training": round(mean["near_training"], 3),
        "copies": sum(measured["copies"] for measured in found),
        "sampled_per_cpu_s": float(f"{mean['sampled_per_cpu_s']:.3g}"),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    text = []
    for domain, about in result["domains"].items():
        metric = about["metric"]
        text += [
            f"## {domain}, {about['size_px']} px, {about['minutes']:g} CPU minutes of training on one thread",
            "",
            f"{metric['name']} on the search split: n = {metric['num_images']} real and {metric['num_generated']} "
            f"generated images, floor {about['floor']}. Real images have precision {about['real_precision']:.2f} and "
            f"coverage {about['real_coverage']:.2f}, and 5% of unseen ones are near training.",
            "",
            "| model | excess | distances by seed | KID | precision | coverage | near training | images/s (CPU) | "
            "weights | steps | CPU s | setting, sampler |",
            "|" + "---|" * 12,
        ]
        for label, line in about["lines"].items():
            cells = [
                label,
                f"**{line['excess']:.0f}**",
                ", ".join(f"{distance:.0f}" for distance in line["distances"]),
                f"{line['kid']:.1f}",
                f"{line['precision']:.2f}",
                f"{line['coverage']:.2f}",
                f"{line['near_training']:.1%}" + (f", {line['copies']} copies" if line["copies"] else ""),
                f"{line['sampled_per_cpu_s']:,.0f}",
                f"{line['params'] / 1e6:.2f} M",
                ", ".join(f"{steps:,}" for steps in line["steps"]) + f" of {line['images_per_step']}",
                ", ".join(f"{spent:.0f}" for spent in line["cpu_s"]),
                f"{line['setting']}; {line['sampler']}",
            ]
            text.append("| " + " | ".join(cells) + " |")
        text += ["", "The brief trainings that chose the settings:", ""]
        text += ["| model | setting | sampler | excess |", "|---|---|---|---|"]
        for choice in about["choices"]:
            for sampler, found in choice["by_sampler"].items():
                excess = found["distance"] - about["floor"]
                text.append(f"| {choice['arm']} | {choice['setting']} | {sampler} | {excess:.0f} |")
        text.append("")
    return "\n".join(text)


def compare(domain: str, *, minutes: float, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one domain; its picture is written on the way."""
    work = options.work
    brief = [
        (domain, arm, setting, CHOICE_SEED, options.choice_share * minutes)
        for arm in options.arms
        for setting in ARMS[arm][1]
    ]
    choices = run_all(brief, work=work, processes=options.processes)
    lines = lines_of(domain, choices)
    wanted = dict.fromkeys((arm, setting) for arm, setting, _ in lines.values())
    jobs = [(domain, arm, setting, seed, minutes) for seed in options.seeds for arm, setting in wanted]
    rows = run_all(jobs, work=work, processes=options.processes)
    loaded = material(domain, work)
    unseen, seen = (real_features(domain, work, split) for split in ("search", "train"))
    around = neighbourhoods(unseen, seen[spread(len(seen), take=len(unseen))])
    floor = loaded.floor("search")
    found, pictures = {}, [("real", to_float(loaded.images("train")[spread(len(seen), take=ROW * ROWS)]))]
    for label, (arm, setting, sampler) in lines.items():
        of_line = [row for row in rows if (row["arm"], row["setting"]) == (arm, setting)]
        found[label] = summary(of_line, sampler=sampler, floor=floor)
        pictures.append((label, to_float(load_file(Path(of_line[0]["path"]).with_suffix(".safetensors"))[sampler])))
    halves = [(label, half) for label, images in pictures for half in images.split(ROW)]
    write_samples(halves, options.out / f"samples-{domain}.png")
    return {
        "size_px": SIZES_PX[domain],
        "minutes": minutes,
        "floor": round(floor, 1),
        "metric": loaded.metric("search").identity.to_dict(),
        "num_train": len(seen),
        "data_digest": loaded.image_set.digest,
        "real_precision": round(around.precision, 3),
        "real_coverage": round(around.coverage, 3),
        "lines": found,
        "choices": [{key: row[key] for key in row if key != "path"} for row in choices],
        "trainings": [{key: row[key] for key in row if key != "path"} for row in rows],
    }


def spread(count: int, *, take: int) -> Tensor:
    """Indices of so many of `count` images, evenly spread."""
    return torch.arange(take) * count // take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU minutes of each training on ELPV (default 20)")
    parser.add_argument("--digits-minutes", type=float, default=4.0, help="the same on the digits (default 4)")
    parser.add_argument(
        "--choice-share",
        type=float,
        default=0.15,
        help="of those, for each training that chooses a setting (default 0.15)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--domains", nargs="+", choices=tuple(SIZES_PX), default=tuple(SIZES_PX))
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=tuple(ARMS))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/against_packages"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written (default: this one)")
    options = parser.parse_args()
    require_one_thread()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    packages = {name: version(name) for name in ("pythae", "diffusers", "scikit-learn")}
    versions = environment(budget_device="cpu") | packages
    minutes = {"elpv": options.minutes, "digits": options.digits_minutes}
    result = {
        "threads": 1,
        "seeds": options.seeds,
        "choice_seed": CHOICE_SEED,
        "split": "search",
        "videos": {f"{size_px} px": policy.describe() for size_px, policy in VIDEOS.items()},
        "versions": versions,
        "domains": {domain: compare(domain, minutes=minutes[domain], options=options) for domain in options.domains},
    }
    (options.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "table.md").write_text(table(result))


if __name__ == "__main__":
    main()
