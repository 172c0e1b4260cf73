"""One whole job: prepare, search, verify, conclude. The run folder holds its state, so it can go on from any point."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autopv.errors import BudgetError
from autopv.search.board import Board
from autopv.search.budget import Budget
from autopv.search.conclusion import NUM_SEARCHED_ARMS, choose_arms, conclude, stored_arms
from autopv.search.environment import environment
from autopv.search.events import EventLog, Listener
from autopv.search.executor import Executor
from autopv.search.ledger import Ledger
from autopv.search.material import absolute_source, reload_material
from autopv.search.planning import calibrate, item_flops, plan_search
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.sources import JobSource, SearchSource, VerificationSource
from autopv.search.spending import Reserve, Speed, Spending
from autopv.search.study import SearchStudy
from autopv.search.trial import WorkerInputs
from autopv.spaces import Space
from autopv.spaces.toml_io import find_space
from autopv.training.material import Material, Setup
from autopv.training.plan import TrainingPlan
from autopv.verify.blocks import fresh_seeds
from autopv.verify.controls import Control, default_controls, random_controls

# Until rank correlation between rungs has been measured, nothing is stopped before half of its compute.
RUNGS = (0.5, 1.0)
_MOST_BLOCKS = 20
_TORCH_DEVICE = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True, kw_only=True)
class SearchRequest(Setup):
    """What the user asks of a search; None leaves the choice to autopv."""

    budget: Budget
    out: Path
    space: str = "stage2_expressive"
    num_seeds: int = 3
    num_workers: int | None = None
    trial_steps: int | None = None


def start_job(request: SearchRequest, *, listener: Listener | None = None) -> None:
    """Runs a new job to its end, in `request.out`.

    Raises:
        InputError: whatever is wrong with the request; nothing has been written then.
        KeyboardInterrupt: the user stopped it; `resume_job` goes on.
    """
    torch.set_num_threads(1)  # the workers have the other cores
    RunFolder.check_free(request.out)
    _check_device(request.budget)
    space = Space.load(request.space)
    material = Material.load(request)
    whole, space = space, space.for_data(has_masks=material.image_set.has_masks)
    left_out = sorted({op for op, _ in whole.magnitudes} - {op for op, _ in space.magnitudes})
    metric = material.metric("search")
    if listener is not None:
        listener({"event": "calibrating", "num_images": len(material.image_set)})
    training = TrainingPlan(total_flops=1e15)
    speed, flops_per_step = calibrate(
        model=request.model,
        preset=request.preset,
        images_NCHW=material.images("train"),
        metric=metric,
        plan=training,
        device=_TORCH_DEVICE[request.budget.device],
    )
    controls = _controls(space, seed=request.seed)
    num_workers = request.num_workers or _default_num_workers(request.budget)
    num_arms = len(controls) + NUM_SEARCHED_ARMS
    plan = plan_search(
        request.budget,
        speed=speed,
        flops_per_step=flops_per_step,
        plan=training,
        rungs=RUNGS,
        num_controls=len(controls),
        num_arms=num_arms,
        num_seeds=request.num_seeds,
        num_workers=num_workers,
        trial_steps=request.trial_steps,
    )
    settings = RunSettings(
        data=absolute_source(request.data),
        size_px=request.resolved_size_px,
        channels=material.image_set.channels,
        group_by=request.group_by,
        data_digest=material.image_set.digest,
        splits_digest=material.splits.digest,
        num_images=len(material.image_set),
        model=request.model,
        preset=request.preset,
        metric=metric.identity.name,
        metric_num_images=material.choice.num_images,
        space=space.name,
        space_digest=space.digest,
        budget=str(request.budget),
        seed=request.seed,
        num_workers=num_workers,
        num_seeds=request.num_seeds,
        trial_steps=plan.trial_steps,
        trial_flops=plan.trial_flops,
        rungs=RUNGS,
        training=replace(training, total_flops=plan.trial_flops).to_dict(),
        num_reserved=plan.num_blocks * num_arms if request.budget.device_s is not None else 0,
        versions=environment(budget_device=request.budget.device),
    )
    folder = RunFolder.create(request.out)
    folder.lock()
    try:
        folder.space.write_bytes(find_space(request.space)[1].read_bytes())
        folder.write_settings(settings)
        events = EventLog(folder.events, listener=Board(folder, listener=listener))
        events.emit(
            "planned",
            budget=settings.budget,
            num_workers=settings.num_workers,
            trial_steps=plan.trial_steps,
            trial_s=round(plan.trial_s, 1),
            num_trials=plan.num_trials,
            num_blocks=plan.num_blocks,
            num_seeds=request.num_seeds,
            num_arms=num_arms,
            reserve_s=plan.reserve_s,
            verdict_needs_s=round(plan.verdict_needs_s),
            num_images=len(material.image_set),
            skipped=[f"{skipped.name}: {skipped.reason}" for skipped in material.image_set.skipped],
            num_defective=material.image_set.num_defective if material.image_set.has_masks else None,
            left_out_ops=left_out,
            splits=[len(part) for part in (material.splits.train, material.splits.search, material.splits.final)],
            metric=metric.identity.to_dict(),
            metric_reason=material.choice.reason,
        )
        _run(folder, settings=settings, material=material, speed=speed, events=events)
    finally:
        folder.unlock()


def resume_job(path: Path, *, listener: Listener | None = None) -> None:
    """Goes on with a job that was interrupted, wherever it stood; a finished one is concluded anew from what it holds.

    Raises:
        RunFolderError: no run, another driver works on it, or its data is no longer what it was.
        KeyboardInterrupt: the user stopped it again.
    """
    torch.set_num_threads(1)
    folder = RunFolder.open(path)
    settings = folder.settings()
    folder.lock()
    try:
        budget = Budget.parse(settings.budget)
        _check_device(budget)
        material = reload_material(settings)
        speed, _ = calibrate(
            model=settings.model,
            preset=settings.preset,
            images_NCHW=material.images("train"),
            metric=material.metric("search"),
            plan=TrainingPlan.from_dict(settings.training),
            device=_TORCH_DEVICE[budget.device],
        )
        events = EventLog(folder.events, listener=Board(folder, listener=listener))
        events.emit("resumed")
        _run(folder, settings=settings, material=material, speed=speed, events=events)
    finally:
        folder.unlock()


def _run(folder: RunFolder, *, settings: RunSettings, material: Material, speed: Speed, events: EventLog) -> None:
    """Whatever the folder says is left to do."""
    ledger = Ledger(folder.ledger)
    try:
        space = Space.load(folder.space).for_data(has_masks=material.image_set.has_masks)
        study = SearchStudy(
            folder.study,
            space=space,
            controls=_controls(space, seed=settings.seed),
            seed=settings.seed,
            rungs=settings.rungs,
        )
        if ledger.get_state("phase") != "done":
            _work(folder, settings=settings, material=material, speed=speed, events=events, ledger=ledger, study=study)
            ledger.set_state("phase", "done")
        verdict = conclude(folder, settings=settings, material=material, ledger=ledger, records=study.records())
        events.emit("concluded", conclusion=verdict.conclusion, spent_s=round(ledger.spent_s(), 1))
    finally:
        ledger.close()


def _work(
    folder: RunFolder,
    *,
    settings: RunSettings,
    material: Material,
    speed: Speed,
    events: EventLog,
    ledger: Ledger,
    study: SearchStudy,
) -> None:
    """Both phases, each from where it stands, on the same workers."""
    budget = Budget.parse(settings.budget)
    plan = TrainingPlan.from_dict(settings.training)
    spending = Spending(budget=budget, ledger=ledger, speed=speed)

    def search() -> SearchSource:
        events.emit("phase", phase="search")
        material.metric("search").save(folder.metric("search"))
        return SearchSource(
            study,
            budget=budget,
            spending=spending,
            flops=item_flops(settings.trial_flops, rungs=settings.rungs, plan=plan),
            reserve=Reserve(flops=settings.trial_flops, num_items=settings.num_reserved),
        )

    def verify() -> VerificationSource:
        if ledger.get_state("phase") != "verify":
            ledger.set_state("arms", [arm.to_dict() for arm in choose_arms(study.records())])
            ledger.set_state("phase", "verify")
        arms = stored_arms(ledger)
        # What a time budget still holds after the blocks asked for goes into more of them, whatever they have shown.
        num_seeds = settings.num_seeds if budget.device_s is None else max(settings.num_seeds, _MOST_BLOCKS)
        seeds = fresh_seeds(settings.seed, num_seeds=num_seeds)
        events.emit("phase", phase="verify", arms=[arm.name for arm in arms])
        material.metric("final").save(folder.metric("final"))
        return VerificationSource(arms, seeds=seeds, flops=settings.trial_flops, ledger=ledger, spending=spending)

    train_images_NCHW, train_masks_NHW = material.for_workers("train")
    inputs = WorkerInputs(
        run_folder=str(folder.path.resolve()),
        train_images_NCHW=train_images_NCHW,
        train_masks_NHW=train_masks_NHW,
        model=settings.model,
        preset=settings.preset,
        plan=plan,
        device=_TORCH_DEVICE[budget.device],
    )
    source = JobSource(search() if ledger.get_state("phase") != "verify" else None, verify=verify)
    source.begin()
    if source.exhausted():
        return
    with Executor(
        folder,
        num_workers=settings.num_workers,
        device=budget.device,
        ledger=ledger,
        spending=spending,
        events=events,
    ) as executor:
        executor.run(source, inputs=inputs)


def _controls(space: Space, *, seed: int) -> tuple[Control, ...]:
    return (*default_controls(), *random_controls(space.random_policy, seed=seed))


def _check_device(budget: Budget) -> None:
    if budget.device == "gpu" and not torch.cuda.is_available():
        raise BudgetError(f"--budget {budget} asks for GPU time, but torch sees no GPU here; use cpu-h or cpu-min.")


def _default_num_workers(budget: Budget) -> int:
    """One worker per device of the budget's kind: the GPUs torch sees, or the cores this process may use."""
    return torch.cuda.device_count() if budget.device == "gpu" else len(os.sched_getaffinity(0))
