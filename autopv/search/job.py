"""One whole job: prepare, search, verify, conclude. The run folder holds all of its state, so it can go on from any point."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autopv.data.images import ImageSet, load_images
from autopv.data.splits import Splits, split_images
from autopv.errors import RunFolderError
from autopv.metrics.metric import LastFrameMetric, evenly, make_metric
from autopv.models.base import default_size_px
from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.events import EventLog, Listener
from autopv.search.executor import Executor
from autopv.search.ledger import Ledger
from autopv.search.planning import SearchPlan, calibrate, item_flops, plan_search
from autopv.search.run_folder import RunFolder, RunSettings, write_json
from autopv.search.sources import SearchSource, VerificationSource
from autopv.search.spending import Speed, Spending
from autopv.search.study import SearchStudy, TrialRecord
from autopv.search.trial import WorkerInputs
from autopv.spaces import Space
from autopv.training.plan import TrainingPlan
from autopv.verify.blocks import Arm, Distance, fresh_seeds
from autopv.verify.controls import IMAGE_ONLY, Control, default_controls, random_controls
from autopv.verify.verdict import Verdict, reach_verdict

# Until rank correlation between rungs has been measured, nothing is stopped before half of its compute.
RUNGS = (0.5, 1.0)
NUM_SEARCHED_ARMS = 2
_PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy")


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """What the user asks for; None leaves the choice to autopv."""

    data: str
    budget: Budget
    out: Path
    size_px: int | None = None
    channels: int | None = None
    group_by: str | None = None
    strict: bool = False
    model: str = "hvae"
    preset: str = "tiny"
    metric: str = "fd_lite0"
    space: str = "stage2_expressive"
    seed: int = 0
    num_seeds: int = 3
    num_workers: int | None = None
    trial_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Material:
    """Images and splits of a job, loaded anew by each process that needs them."""

    image_set: ImageSet
    splits: Splits

    def images(self, split: str) -> torch.Tensor:
        """The uint8 images_NCHW of one split."""
        indices: torch.Tensor = getattr(self.splits, split)
        return self.image_set.images_NCHW[indices]

    @property
    def metric_num_images(self) -> int:
        """The n of every distance: what all splits can serve."""
        return min(len(self.splits.train), len(self.splits.search), len(self.splits.final))


def start_job(request: SearchRequest, *, listener: Listener | None = None) -> Path:
    """Runs a new job to its end and returns its run folder.

    Raises:
        InputError: whatever is wrong with the request; nothing has been written then.
        KeyboardInterrupt: the user stopped it; `resume_job` goes on.
    """
    torch.set_num_threads(1)  # the workers have the other cores
    space = Space.load(request.space)
    size_px = request.size_px or default_size_px(request.model, request.preset)
    material = _load(request.data, size_px=size_px, channels=request.channels, group_by=request.group_by,
                     strict=request.strict, seed=request.seed)  # fmt: skip
    metric = _metric(request.metric, material, split="search")
    device = "cuda" if request.budget.device == "gpu" else "cpu"
    _check_device(request.budget)
    training = TrainingPlan(total_flops=1e15)
    speed, flops_per_step = calibrate(
        model=request.model, preset=request.preset, images_NCHW=material.images("train"), metric=metric, plan=training,
        device=device,
    )  # fmt: skip
    controls = _controls(space, seed=request.seed)
    plan = plan_search(
        request.budget, speed=speed, flops_per_step=flops_per_step, plan=training, rungs=RUNGS,
        num_controls=len(controls), num_arms=len(controls) + NUM_SEARCHED_ARMS, num_seeds=request.num_seeds,
        trial_steps=request.trial_steps,
    )  # fmt: skip
    settings = RunSettings(
        data=request.data, size_px=size_px, channels=material.image_set.channels, group_by=request.group_by,
        data_digest=material.image_set.digest, splits_digest=material.splits.digest, num_images=len(material.image_set),
        model=request.model, preset=request.preset, metric=request.metric,
        metric_num_images=metric.identity.num_images, space=request.space, space_digest=space.digest,
        budget=str(request.budget), seed=request.seed,
        num_workers=request.num_workers or default_num_workers(request.budget), num_seeds=request.num_seeds,
        trial_steps=plan.trial_steps, trial_flops=plan.trial_flops, rungs=RUNGS,
        training=replace(training, total_flops=plan.trial_flops).to_dict(), reserve_s=plan.reserve_s, versions=versions(),
    )  # fmt: skip
    folder = RunFolder.create(request.out)
    folder.lock()
    try:
        folder.space.write_bytes(_space_file(request.space))
        folder.write_settings(settings)
        events = EventLog(folder.events, listener=listener)
        events.emit(
            "planned", budget=str(request.budget), num_workers=settings.num_workers, seed=request.seed,
            trial_steps=plan.trial_steps, trial_s=round(plan.trial_s, 1), num_trials=plan.num_trials,
            num_blocks=plan.num_blocks, num_seeds=request.num_seeds, num_arms=len(controls) + NUM_SEARCHED_ARMS,
            reserve_s=plan.reserve_s, verdict_needs_s=round(plan.verdict_needs_s), skipped=len(material.image_set.skipped),
            num_images=len(material.image_set), splits=[len(material.images(s)) for s in ("train", "search", "final")],
            metric=metric.identity.to_dict(),
        )  # fmt: skip
        _run(folder, settings=settings, material=material, speed=speed, events=events)
    finally:
        folder.unlock()
    return folder.path


def resume_job(path: Path, *, listener: Listener | None = None) -> Path:
    """Goes on with a job that was interrupted, wherever it stood; a finished one is concluded anew from what it holds.

    Raises:
        RunFolderError: no run, another driver works on it, or its data is no longer what it was.
    """
    torch.set_num_threads(1)
    folder = RunFolder.open(path)
    folder.lock()
    try:
        settings = folder.settings()
        material = load_material(settings)
        budget = Budget.parse(settings.budget)
        _check_device(budget)
        metric = _metric(settings.metric, material, split="search")
        speed, _ = calibrate(
            model=settings.model, preset=settings.preset, images_NCHW=material.images("train"), metric=metric,
            plan=TrainingPlan.from_dict(settings.training), device="cuda" if budget.device == "gpu" else "cpu",
        )  # fmt: skip
        events = EventLog(folder.events, listener=listener)
        events.emit("resumed")
        _run(folder, settings=settings, material=material, speed=speed, events=events)
    finally:
        folder.unlock()
    return path


def load_material(settings: RunSettings) -> Material:
    """The images of a job, checked to be those it was started with.

    Raises:
        RunFolderError: the data has changed since.
    """
    material = _load(settings.data, size_px=settings.size_px, channels=settings.channels, group_by=settings.group_by,
                     strict=False, seed=settings.seed)  # fmt: skip
    digests = (material.image_set.digest, material.splits.digest)
    if digests != (settings.data_digest, settings.splits_digest):
        raise RunFolderError(
            f"--data {settings.data} is not what this run was started with ({settings.num_images} images then, "
            f"{len(material.image_set)} now, or other contents); numbers of different data cannot meet. "
            "Put the data back, or start a new run."
        )
    return material


def default_num_workers(budget: Budget) -> int:
    """One worker per device of the budget's kind: the cores this process may use, or the GPUs it sees."""
    if budget.device == "gpu":
        return max(1, torch.cuda.device_count())
    import os

    return max(1, len(os.sched_getaffinity(0)))


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def _run(
    folder: RunFolder, *, settings: RunSettings, material: Material, speed: Speed, events: EventLog
) -> None:
    budget = Budget.parse(settings.budget)
    space = Space.load(folder.space)
    plan = TrainingPlan.from_dict(settings.training)
    ledger = Ledger(folder.ledger)
    study = SearchStudy(
        folder.study, space=space, controls=_controls(space, seed=settings.seed), seed=settings.seed, rungs=settings.rungs
    )
    spending = Spending(budget=budget, ledger=ledger, speed=speed, reserve_s=settings.reserve_s or 0.0)
    executor = Executor(
        folder, num_workers=settings.num_workers, device=budget.device, ledger=ledger, spending=spending, events=events
    )

    def inputs(split: str) -> WorkerInputs:
        return WorkerInputs(
            run_folder=str(folder.path.resolve()), train_images_NCHW=material.images("train"),
            metric=_metric(settings.metric, material, split=split), model=settings.model, preset=settings.preset,
            plan=plan, device="cuda" if budget.device == "gpu" else "cpu",
        )  # fmt: skip

    try:
        phase = ledger.get_state("phase") or "search"
        if phase != "done":
            with executor:
                if phase == "search":
                    events.emit("phase", phase="search")
                    flops = item_flops(settings.trial_flops, rungs=settings.rungs, plan=plan)
                    source = SearchSource(
                        study, budget=budget, spending=spending, flops=flops, num_rungs=len(settings.rungs)
                    )
                    executor.run(source, inputs=inputs("search"))
                    ledger.set_state("arms", [arm.to_dict() for arm in _choose_arms(study.records())])
                    ledger.set_state("phase", "verify")
                arms = _arms(ledger)
                seeds = fresh_seeds(settings.seed, num_seeds=settings.num_seeds)
                verification = VerificationSource(
                    arms, seeds=seeds, flops=settings.trial_flops, ledger=ledger, spending=spending, folder=folder.path
                )
                verification.begin()
                if not verification.exhausted():
                    events.emit("phase", phase="verify", arms=[arm.name for arm in arms], seeds=len(seeds))
                    executor.run(verification, inputs=inputs("final"))
                ledger.set_state("phase", "done")
        _conclude(folder, settings=settings, material=material, ledger=ledger, records=study.records())
        events.emit("concluded", spent_s=round(ledger.spent_s(), 1))
    finally:
        ledger.close()


def _conclude(
    folder: RunFolder, *, settings: RunSettings, material: Material, ledger: Ledger, records: Sequence[TrialRecord]
) -> None:
    """Writes result.json, policy.json, best_found.json and model/ from what the folder holds."""
    train = material.images("train")
    floors, identities = {}, {}
    for split in ("search", "final"):
        metric = _metric(settings.metric, material, split=split)
        floors[split] = metric.floor_against(train)
        identities[split] = metric.identity.to_dict()
    arms = _arms(ledger)
    distances = [Distance(arm=r.arm, seed=r.seed, distance=r.distance) for r in ledger.verification()]
    trained_for = f"{settings.trial_steps} image-only steps' worth of compute"
    verdict = reach_verdict(arms, distances, floor=floors["final"], trained_for=trained_for)
    best = best_found(records)
    source = {
        "autopv": settings.autopv_version, "data": settings.data, "data_digest": settings.data_digest,
        "model": f"{settings.model}/{settings.preset}", "size_px": settings.size_px, "trained_for_flops": settings.trial_flops,
        "versions": dict(settings.versions),
    }  # fmt: skip
    policy = next((arm.policy for arm in arms if arm.name == verdict.recommended), Policy.image_only())
    evidence = {
        "metric": identities["final"], "floor": floors["final"], "conclusion": verdict.conclusion,
        "verdict": verdict.sentence, "seeds": list(verdict.seeds),
        "comparison": next((c.to_dict() for c in verdict.comparisons if c.arm == verdict.recommended), None),
    }  # fmt: skip
    _save_policy(policy, folder.policy, provenance={**source, **evidence})
    if best is not None:
        look = {"metric": identities["search"], "floor": floors["search"], "distance": best.distance, "seeds": [best.seed],
                "trial": best.key}  # fmt: skip
        _save_policy(best.policy, folder.best_found, provenance={**source, **look})
    _export_model(folder, verdict=verdict, records=records)
    spent_s = ledger.spent_s()
    write_json(
        folder.result,
        {
            "verdict": verdict.to_dict(), "recommended_policy": policy.describe(),
            "best_found": None if best is None else {"trial": best.key, "policy": best.policy.describe()},
            "arms": [{"name": arm.name, "kind": arm.kind, "policy": arm.policy.describe()} for arm in arms],
            "floors": floors, "metrics": identities, "spent_s": spent_s, "use_s": dict(ledger.usage()),
            "spent_by_phase_s": {phase: ledger.spent_s(phase=phase) for phase in ("search", "verify")},
            "trials": [_trial_dict(record) for record in records],
            "budget": settings.budget, "seed": settings.seed, "trial_steps": settings.trial_steps,
            "trial_flops": settings.trial_flops, "num_workers": settings.num_workers, "versions": dict(settings.versions),
            "autopv_version": settings.autopv_version, "data": settings.data, "data_digest": settings.data_digest,
        },
    )  # fmt: skip


def best_found(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The searched policy with the least distance on the search split; a control where nothing was searched to the end."""
    complete = [r for r in records if r.distance is not None and r.control != IMAGE_ONLY]
    searched = [r for r in complete if r.control is None]
    return min(searched or complete, key=lambda r: r.distance or 0.0, default=None)


def final_checkpoint(folder: RunFolder, *, arm: str, verdict_seeds: Sequence[int], records: Sequence[TrialRecord]) -> Path | None:
    """The folder of a trained model of an arm: from verification where there is one, else from its trial."""
    candidates = [folder.item(f"verify-{arm}-{seed}") for seed in verdict_seeds]
    candidates += [folder.item(r.key) for r in records if r.state == "complete" and arm in (r.control, r.key)]
    return next((path for path in candidates if path.exists()), None)


def _export_model(folder: RunFolder, *, verdict: Verdict, records: Sequence[TrialRecord]) -> None:
    checkpoint = final_checkpoint(folder, arm=verdict.recommended, verdict_seeds=verdict.seeds, records=records)
    if checkpoint is not None:
        shutil.rmtree(folder.model, ignore_errors=True)
        shutil.copytree(checkpoint, folder.model)


def _choose_arms(records: Sequence[TrialRecord]) -> list[Arm]:
    """Every control, and the searched policies with the least distance that are no control already."""
    arms = [Arm(name=r.control, kind="control", policy=r.policy) for r in records if r.control is not None]
    seen = {arm.policy.digest for arm in arms}
    searched = sorted((r for r in records if r.control is None and r.distance is not None), key=lambda r: r.distance or 0.0)
    for record in searched:
        if len(arms) < NUM_SEARCHED_ARMS + sum(arm.kind == "control" for arm in arms) and record.policy.digest not in seen:
            arms.append(Arm(name=record.key, kind="searched", policy=record.policy))
            seen.add(record.policy.digest)
    return arms


def _arms(ledger: Ledger) -> list[Arm]:
    stored = ledger.get_state("arms")
    return [Arm.from_dict(values) for values in stored] if isinstance(stored, list) else []


def _controls(space: Space, *, seed: int) -> tuple[Control, ...]:
    return (*default_controls(), *random_controls(space.random_policy, seed=seed))


def _trial_dict(record: TrialRecord) -> Mapping[str, Any]:
    return {
        "key": record.key, "control": record.control, "policy": record.policy.describe(), "state": record.state,
        "seed": record.seed, "looks": {str(k): v for k, v in record.looks.items()}, "distance": record.distance,
        "failure": record.failure,
    }  # fmt: skip


def _save_policy(policy: Policy, path: Path, *, provenance: Mapping[str, Any]) -> None:
    replace(policy, provenance=provenance).save(path, overwrite=True)


def _load(
    data: str, *, size_px: int, channels: int | None, group_by: str | None, strict: bool, seed: int
) -> Material:
    image_set = load_images(data, size_px=size_px, channels=channels, group_by=group_by, strict=strict)
    return Material(image_set=image_set, splits=split_images(image_set, seed=seed))


def _metric(name: str, material: Material, *, split: str) -> LastFrameMetric:
    return make_metric(
        name, material.images(split), data_digest=material.image_set.digest, num_images=material.metric_num_images
    )


def _space_file(name_or_path: str) -> bytes:
    from autopv.spaces.toml_io import find_space

    _, file, _ = find_space(name_or_path)
    return file.read_bytes()


def _check_device(budget: Budget) -> None:
    if budget.device == "gpu" and not torch.cuda.is_available():
        from autopv.errors import BudgetError

        raise BudgetError(f"--budget {budget} asks for GPU time, but torch sees no GPU here; use cpu-h or cpu-min.")


__all__ = ["SearchPlan", "SearchRequest", "resume_job", "start_job"]
