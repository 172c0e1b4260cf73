"""Trains the hierarchical VAE with other weights on its rates; writes result.json and table.md here.

Every training is kept in --work as soon as it ends: run the command again to go on.
"""

import argparse
import functools
import json
import multiprocessing
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from variants import VARIANTS

from autopv.models.base import VideoGenerator
from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import FIRST_KL_SHARE, TrainingPlan

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from digits import digits_file
from one_thread import require_one_thread
from trainers import trainer_of_steps

HERE = Path(__file__).parent
SEEDS = (201, 202)
NUM_BOUND = 400
"""Images of the search split on which the evidence bound is computed."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is trained on, and for how many steps. num_images: of the train split; None: all."""

    data: str
    size_px: int
    steps: int
    num_images: int | None = None


SETTINGS = {
    "digits": Setting(data="digits", size_px=8, steps=3000),
    "elpv": Setting(data="elpv", size_px=16, steps=1800),
    "elpv, 300 images": Setting(data="elpv", size_px=16, steps=2400, num_images=300),
}


@functools.cache
def material(data: str, size_px: int, work: Path) -> Material:
    """The images; the digits are written into the work folder first."""
    if data != "digits":
        return Material.load(Setup(data=data, size_px=size_px))
    return Material.load(Setup(data=str(digits_file(work)), size_px=size_px))


def trained(images_NCHW: torch.Tensor, *, variant: str, steps: int, seed: int) -> VideoGenerator:
    """The annealed model after so many steps."""
    chosen = VARIANTS[variant]

    one = trainer_of_steps(
        images_NCHW,
        model=chosen.model,
        policy=Policy.image_only(),
        steps=steps + 0.5,
        seed=seed,
        plan=replace(TrainingPlan.asked(model=chosen.model), **chosen.plan),
        execution=Execution(compiled=True),
    )
    if chosen.warmup_share is not None:  # beyond the plan's bound of a tenth of the training
        share, learner_step = chosen.warmup_share, one.learner.step

        def step(*arguments: object, **named: object) -> object:
            warm = min(1.0, one.position / (share * one.total_steps))
            kl_weight = FIRST_KL_SHARE + (1 - FIRST_KL_SHARE) * warm
            return learner_step(*arguments, **(named | {"kl_weight": kl_weight}))  # type: ignore[arg-type]

        one.learner.step = step  # type: ignore[method-assign, assignment]
    model = one.annealed_look(1.0)
    assert model is not None
    return model


def train(task: tuple[str, str, int, str]) -> None:
    """One training and what was measured of it, written as a file."""
    name, variant, seed, path_text = task
    torch.set_num_threads(1)
    setting, path = SETTINGS[name], Path(path_text)
    loaded = material(setting.data, setting.size_px, path.parent)
    everything = loaded.images("train")
    some = torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))[: setting.num_images]
    model = trained(everything[some], variant=variant, steps=setting.steps, seed=seed)
    frames_BTCHW = loaded.images("search")[:NUM_BOUND, None].float() / 255
    captured: list[torch.Tensor] = []
    weighted_rate = model._weighted_rate  # type: ignore[operator]

    def listening(kl_L: torch.Tensor, *, kl_weight: torch.Tensor) -> torch.Tensor:
        captured.append(kl_L)
        return weighted_rate(kl_L, kl_weight=kl_weight)  # type: ignore[operator, no-any-return]

    model._weighted_rate = listening  # type: ignore[assignment]
    with torch.no_grad():
        generator = torch.Generator().manual_seed(6)
        terms = model.loss(frames_BTCHW, frame_weights_T=[1.0], generator=generator).terms
    row = {
        "setting": name,
        "variant": variant,
        "seed": seed,
        "excess": round(measure(model, loaded.metric("search"), seed=seed) - loaded.floor("search"), 1),
        "bound_held_out": round(float(terms["distortion"] + terms["rate"]), 4),
        "log_scale": round(float(terms["log_scale"]), 3),
        "nats_by_level": [round(float(kl) * frames_BTCHW[0].numel(), 1) for kl in captured[0]],
    }
    path.with_suffix(".part").write_text(json.dumps(row))
    path.with_suffix(".part").replace(path)
    print(json.dumps(row), flush=True)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The result as Markdown."""
    lines = []
    for name, setting in SETTINGS.items():
        here = [row for row in rows if row["setting"] == name]
        if not here:
            continue
        lines += [f"## {name}, {setting.size_px} px, {setting.steps} steps", ""]
        lines += ["| variant | excess | by seed | held-out bound, nats per pixel | log scale | nats by level |"]
        lines += ["|" + "---|" * 6]
        for variant in VARIANTS:
            found = [row for row in here if row["variant"] == variant]
            if not found:
                continue
            mean = {
                key: statistics.fmean(row[key] for row in found) for key in ("excess", "bound_held_out", "log_scale")
            }
            nats = [
                f"{statistics.fmean(level):.0f}" for level in zip(*(row["nats_by_level"] for row in found), strict=True)
            ]
            by_seed = ", ".join(f"{row['excess']:.0f}" for row in found)
            lines.append(
                f"| {variant} | **{mean['excess']:.0f}** | {by_seed} | {mean['bound_held_out']:.2f} "
                f"| {mean['log_scale']:.2f} | {' '.join(nats)} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", nargs="+", choices=tuple(SETTINGS), default=tuple(SETTINGS))
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/hvae_rates"))
    options = parser.parse_args()
    require_one_thread()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    wanted = {
        (name, variant, seed): work / f"{name}-{variant}-{seed}.json".replace(" ", "_")
        for name in options.settings
        for seed in options.seeds
        for variant in options.variants
    }
    tasks = [(*key, str(path)) for key, path in wanted.items() if not path.exists()]
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        pool.map(train, tasks, chunksize=1)
    rows = [json.loads(path.read_text()) for path in wanted.values()]
    settings = {name: asdict(SETTINGS[name]) for name in options.settings}
    result = {"settings": settings, "rows": rows, "versions": environment(budget_device="cpu")}
    (HERE / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "table.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
