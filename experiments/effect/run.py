"""Trains the arms of `arms.py` on common seeds and writes every look into --work as soon as it is taken.

Interrupted runs go on: a finished training is not repeated, an unfinished one goes on from its last look.
"""

import argparse
import functools
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from arms import BRIEF, Job, arms, jobs
from variants import VARIANTS

from autopv.models.base import VideoGenerator
from autopv.policy import Policy
from autopv.search.environment import environment
from autopv.training.checkpoint import FILE_NAME, resume_checkpoint, save_checkpoint
from autopv.training.execution import Execution
from autopv.training.material import Material, Setup
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from digits import digits_file
from one_thread import require_one_thread
from trainers import trainer_of_steps

SIZE_PX = 16
DIGITS_PX = 8
NUM_BOUND = 400
"""Images on which the evidence bound is computed, of those trained on and of those held out."""
RELATIVE_MEMORY = 6.94
"""Exponent of the long average: a tenth of the training's length (Karras et al., arXiv 2312.02696, section 3.1)."""


@functools.cache
def material(domain: str) -> Material:
    """The images of a demo set, or the digits."""
    if domain != "digits":
        return Material.load(Setup(data=domain, size_px=SIZE_PX))
    with tempfile.TemporaryDirectory() as folder:
        return Material.load(Setup(data=str(digits_file(Path(folder))), size_px=DIGITS_PX))


class LongAverage:
    """An average of the trunk's weights whose memory grows with the training: what a look without annealing can use."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.values = {name: p.detach().clone() for name, p in trainer.learner.model.named_parameters()}
        take_step = trainer.learner.step

        def step(*args: object, **keywords: object) -> object:
            loss = take_step(*args, **keywords)  # type: ignore[arg-type]
            if trainer.look is None:
                forget = 1 - (1 - 1 / trainer.position) ** (RELATIVE_MEMORY + 1)
                live = [p.detach() for p in trainer.learner.model.parameters()]
                torch._foreach_lerp_(list(self.values.values()), live, forget)
            return loss

        trainer.learner.step = step  # type: ignore[method-assign, assignment]

    def model(self) -> VideoGenerator:
        model = self.trainer.learner.averaged_model()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(self.values[name])
        return model


def bound(model: VideoGenerator, policy: Policy, images_NCHW: torch.Tensor) -> tuple[float, float] | None:
    """Nats per pixel: an upper bound of the image's negative log-likelihood, up to a constant common to all arms.

    With it, the log of the likelihood's scale. None of a family without such a bound.
    """
    images = images_NCHW[:NUM_BOUND].float() / 255
    donors = images[:64] if "donors" in policy.needs else None
    frames_BTCHW = policy.render(images, generator=torch.Generator().manual_seed(5), donors=donors)
    with torch.no_grad():
        terms = model.loss(
            frames_BTCHW,
            frame_weights_T=policy.frame_weights(1.0),
            generator=torch.Generator().manual_seed(6),
        ).terms
    return (float(terms["distortion"] + terms["rate"]), float(terms["log_scale"])) if "rate" in terms else None


def train(task: tuple[Job, str]) -> None:
    """One training with all its looks; rows go to WORK/KEY.json."""
    job, work = task
    torch.set_num_threads(1)
    loaded = material(job.domain)
    everything = loaded.images("train")
    chosen = torch.randperm(len(everything), generator=torch.Generator().manual_seed(1))[: job.num_images]
    images_NCHW, held_out_NCHW = everything[chosen], loaded.images("search")
    policy, variant = arms()[job.arm], VARIANTS[job.variant]
    plan = replace(TrainingPlan.asked(model=variant.model), **variant.plan)

    one = trainer_of_steps(
        images_NCHW,
        model=variant.model,
        preset=variant.preset,
        policy=policy,
        steps=job.looks[-1] * BRIEF,
        seed=job.seed,
        plan=plan,
        execution=Execution(compiled=True),
    )
    path, folder = Path(work) / f"{job.key}.json", Path(work) / job.key
    record = json.loads(path.read_text()) if path.exists() else {"job": asdict(job), "rows": []}
    if (folder / FILE_NAME).exists() and not job.averages:
        # The same trunk, if need be on its way to a later end: every schedule here counts steps.
        resume_checkpoint(one, folder, force=True)
    average = LongAverage(one) if job.averages else None
    metric = loaded.metric("search")
    for look in _pending(job, record):
        fraction = look / job.looks[-1]
        model = one.annealed_look(fraction)
        assert model is not None
        row: dict[str, float] = {
            "look": look,
            "steps": one.position,
            "distance": measure(model, metric, seed=job.seed),
        }
        on_train, held_out = bound(model, policy, images_NCHW), bound(model, policy, held_out_NCHW)
        if on_train is not None and held_out is not None:
            row |= {"bound_train": on_train[0], "bound_held_out": held_out[0], "log_scale": on_train[1]}
        if average is not None and look <= 1:
            one.train_until(fraction)
            row["distance_short_average"] = measure(one.learner.averaged_model(), metric, seed=job.seed)
            row["distance_long_average"] = measure(average.model(), metric, seed=job.seed)
        record["rows"].append(row)
        save_checkpoint(one, folder)
        path.with_suffix(".part").write_text(json.dumps(record))
        path.with_suffix(".part").replace(path)
        print(job.key, json.dumps(row), flush=True)


def _pending(job: Job, record: dict[str, list[dict[str, float]]]) -> list[float]:
    """The looks that are still to be taken."""
    taken = {row["look"] for row in record["rows"]}
    return [look for look in job.looks if look not in taken]


def settings() -> Mapping[str, object]:
    """What all rows have in common."""
    return {
        "brief_steps": BRIEF,
        "size_px": SIZE_PX,
        "model": "hvae/tiny, or what the variant says",
        "split": "search",
        "versions": environment(budget_device="cpu"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", help="names in arms.jobs(); default: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/effect"))
    options = parser.parse_args()
    require_one_thread()
    options.work.mkdir(parents=True, exist_ok=True)
    if not (options.work / "settings.json").exists():
        (options.work / "settings.json").write_text(json.dumps(settings()))
    known = jobs()
    wanted = [job for study in options.studies or known for job in known[study]]

    def unfinished(job: Job) -> bool:
        path = options.work / f"{job.key}.json"
        return not path.exists() or bool(_pending(job, json.loads(path.read_text())))

    tasks = [(job, str(options.work)) for job in dict.fromkeys(wanted) if unfinished(job)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for _ in pool.imap_unordered(train, tasks, chunksize=1):
            pass


if __name__ == "__main__":
    main()
