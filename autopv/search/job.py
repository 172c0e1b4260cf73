"""One whole job: prepare, search, verify, conclude. The run folder holds its state, so it can go on from any point."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autopv.errors import BudgetError
from autopv.models.base import check_installed, max_frames, model_package
from autopv.policy import Policy
from autopv.search.board import Board
from autopv.search.budget import Budget
from autopv.search.conclusion import NUM_SEARCHED_ARMS, choose_arms, conclude, stored_arms, stored_floor
from autopv.search.environment import environment
from autopv.search.events import EventLog, Listener, event_record
from autopv.search.executor import Executor
from autopv.search.extension import Extension, current_budget, extend, num_blocks, num_reserved
from autopv.search.ledger import Ledger
from autopv.search.material import absolute_source, reload_material
from autopv.search.planning import calibrate
from autopv.search.ray_session import call_on_device, num_devices
from autopv.search.request import SearchRequest, check_request, plan_request
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.screen import Screen
from autopv.search.sources import JobSource, SearchSource, VerificationSource
from autopv.search.spending import SAFETY, Reserve, Speed, Spending
from autopv.search.storage import storage_errors
from autopv.search.study import SearchStudy
from autopv.search.target import chosen_policies, given_policies
from autopv.search.trial import WorkerInputs
from autopv.spaces import Space
from autopv.spaces.toml_io import find_space
from autopv.training.material import Material
from autopv.training.plan import TrainingPlan
from autopv.verify.blocks import fresh_seeds
from autopv.verify.controls import Control, default_controls, random_controls

# Among the versions of a run whose model comes from another package.
_MODEL_PACKAGE = "model package"
_TORCH_DEVICE = {"cpu": "cpu", "gpu": "cuda"}


def start_job(request: SearchRequest, *, listener: Listener | None = None) -> None:
    """Runs a new job to its end, in `request.out`.

    Raises:
        InputError: whatever is wrong with the request; nothing has been written then.
        KeyboardInterrupt: the user stopped it; `resume_job` goes on.
    """
    torch.set_num_threads(1)  # the workers have the other cores
    RunFolder.check_free(request.out)
    check_request(request)
    found = given_policies(request.warm_start)
    devices = _num_devices(request.budget, trials_per_gpu=request.trials_per_gpu, address=request.address)
    whole = Space.load(request.space)
    material = Material.load(request)
    space = _served(whole, asked=request, size_px=request.resolved_size_px, material=material)
    left_out = sorted({op for op, _ in whole.magnitudes} - {op for op, _ in space.magnitudes})
    metric = material.metric("search")
    if listener is not None:
        listener(event_record("calibrating", num_images=len(material.image_set)))
    training = request.training
    speed, flops_per_step = _calibrate(request, material=material, plan=training, device=request.budget.device)
    controls = _controls(space, seed=request.seed)
    num_workers = request.num_workers or devices * request.trials_per_gpu
    num_arms = len(controls) + NUM_SEARCHED_ARMS
    plan, rungs, target = plan_request(
        request, speed=speed, flops_per_step=flops_per_step, num_controls=len(controls), num_workers=num_workers
    )
    given = chosen_policies(
        found,
        space=space,
        has_masks=material.image_set.has_masks,
        max_frames=_max_frames(request, size_px=request.resolved_size_px),
        num_trials=plan.num_trials,
        controls=[control.policy for control in controls],
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
        classes=request.classes,
        preset=request.preset,
        metric=metric.identity.name,
        metric_num_images=material.choice.num_images,
        space=space.name,
        space_digest=space.digest,
        sampler=request.sampler,
        stopping=request.stopping,
        repeat_share=request.repeat_share,
        screen=request.screen,
        given={name: policy.to_dict() for name, policy in given.policies.items()},
        warm_start=tuple(str(Path(source).resolve()) for source in request.warm_start),
        budget=str(request.budget),
        seed=request.seed,
        num_workers=num_workers,
        trials_per_gpu=request.trials_per_gpu,
        address=request.address,
        num_seeds=request.num_seeds,
        trial_steps=plan.trial_steps,
        train_steps=target,
        trial_flops=plan.trial_flops,
        rungs=rungs,
        training=replace(training, total_flops=plan.trial_flops).to_dict(),
        num_reserved=plan.num_blocks * num_arms if request.budget.device_s is not None else 0,
        versions=environment(budget_device=request.budget.device) | _model_version(request.model),
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
            rungs=rungs,
            train_steps=settings.train_steps,
            given=[f"{name}: {policy.describe()}" for name, policy in given.policies.items()],
            given_left_out=list(given.left_out),
            reserve_s=plan.reserve_s,
            verdict_needs_s=round(plan.verdict_needs_s),
            train_needs_s=None if plan.train_needs_s is None else round(plan.train_needs_s),
            num_images=len(material.image_set),
            skipped=[f"{skipped.name}: {skipped.reason}" for skipped in material.image_set.skipped],
            num_defective=material.image_set.num_defective if material.image_set.has_masks else None,
            classes=None if material.classes is None else material.classes.by_name,
            left_out_ops=left_out,
            max_frames=space.num_frames.high if space.num_frames != whole.num_frames else None,
            splits=[len(part) for part in (material.splits.train, material.splits.search, material.splits.final)],
            metric=metric.identity.to_dict(),
            metric_reason=material.choice.reason,
        )
        with storage_errors(folder):
            _run(folder, settings=settings, material=material, speed=speed, events=events)
    finally:
        folder.unlock()


def resume_job(path: Path, *, extension: Extension | None = None, listener: Listener | None = None) -> None:
    """Goes on with a job that was interrupted, wherever it stood; a finished one is concluded anew from what it holds.

    extension: more budget or more seeds, which also open a finished job again.

    Raises:
        RunFolderError: no run, another driver works on it, or its data is no longer what it was.
        ModelError: the family of its model is not installed.
        BudgetError: the extension cannot be added.
        KeyboardInterrupt: the user stopped it again.
    """
    torch.set_num_threads(1)
    folder = RunFolder.open(path)
    settings = folder.settings()
    check_installed(settings.model, package=settings.versions.get(_MODEL_PACKAGE), where=f"the run {path}")
    folder.lock()
    try:
        budget = Budget.parse(settings.budget)
        if extension is not None and extension.budget is not None:
            budget.extended(extension.budget)  # refused now rather than after the images are loaded
        _num_devices(budget, trials_per_gpu=settings.trials_per_gpu, address=settings.address)
        material = reload_material(settings)
        if listener is not None:
            listener(event_record("calibrating", num_images=len(material.image_set)))
        plan = TrainingPlan.from_dict(settings.training)
        speed, _ = _calibrate(settings, material=material, plan=plan, device=budget.device)
        events = EventLog(folder.events, listener=Board(folder, listener=listener))
        with storage_errors(folder):
            _run(folder, settings=settings, material=material, speed=speed, events=events, extension=extension)
    finally:
        folder.unlock()


def _run(
    folder: RunFolder,
    *,
    settings: RunSettings,
    material: Material,
    speed: Speed,
    events: EventLog,
    extension: Extension | None = None,
) -> None:
    """Whatever the folder says is left to do, and what is added to it."""
    ledger = Ledger(folder.ledger)
    try:
        space = _served(Space.load(folder.space), asked=settings, size_px=settings.size_px, material=material)
        controls = _controls(space, seed=settings.seed)
        study = SearchStudy(
            folder.study,
            space=space,
            controls=controls,
            seed=settings.seed,
            rungs=settings.rungs,
            sampler=settings.sampler,
            stopping=settings.stopping,
            repeat_share=settings.repeat_share,
            floor=stored_floor(ledger, material=material, split="search"),
            given={
                name: Policy.from_dict(policy, where=f"{folder.path}/run.json {name}")
                for name, policy in settings.given.items()
            },
            screen=_screen(settings, material=material),
        )
        if extension is not None:
            extend(extension, ledger=ledger, settings=settings, study=study, speed=speed, num_controls=len(controls))
        budget = current_budget(ledger, settings)
        spent_s = round(ledger.spent_s(), 1)
        events.emit("launched", budget=str(budget), num_workers=settings.num_workers, spent_s=spent_s)
        if ledger.get_state("phase") != "done":
            _work(folder, settings=settings, material=material, speed=speed, events=events, ledger=ledger, study=study)
            ledger.set_state("phase", "done")
        verdict = conclude(
            folder, settings=settings, material=material, ledger=ledger, records=study.records(), budget=budget
        )
        events.emit("concluded", conclusion=verdict.conclusion, spent_s=round(ledger.spent_s(), 1))
    finally:
        ledger.close()


def _screen(settings: RunSettings, *, material: Material) -> Screen | None:
    """What looks at proposals before they are trained; None where nothing is asked of them."""
    if settings.screen == 0:
        return None
    masks_NHW = material.masks("train")
    return Screen(material.images("train"), masks_NHW=masks_NHW, seed=settings.seed, least=settings.screen)


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
    budget = current_budget(ledger, settings)
    plan = TrainingPlan.from_dict(settings.training)
    spending = Spending(budget=budget, ledger=ledger, speed=speed)

    def search() -> SearchSource:
        reserve = Reserve(flops=settings.trial_flops, num_items=num_reserved(ledger, settings))
        events.emit(
            "phase",
            phase="search",
            arms=None,
            num_blocks=None,
            reserve_s=reserve.num_items * spending.speed.item_s(flops=reserve.flops, num_looks=1) * SAFETY,
            floor=stored_floor(ledger, material=material, split="search"),
            spent_s=round(ledger.spent_s(), 1),
        )
        material.metric("search").save(folder.metric("search"))
        return SearchSource(
            study,
            folder=folder,
            budget=budget,
            spending=spending,
            flops=settings.trial_flops,
            reserve=reserve,
            stopping=settings.stopping,
        )

    def verify() -> VerificationSource:
        if ledger.get_state("phase") != "verify":
            chosen = choose_arms(
                study.records(),
                floor=stored_floor(ledger, material=material, split="search"),
                length=settings.extrapolation,
                earlier=stored_arms(ledger),
            )
            ledger.set_states({"arms": [arm.to_dict() for arm in chosen], "phase": "verify"})
        arms = stored_arms(ledger)
        most_blocks = num_blocks(ledger, settings)
        events.emit(
            "phase",
            phase="verify",
            arms=[arm.name for arm in arms],
            num_blocks=most_blocks,
            reserve_s=0.0,
            floor=stored_floor(ledger, material=material, split="final"),
            spent_s=round(ledger.spent_s(), 1),
        )
        seeds = fresh_seeds(settings.seed, num_seeds=most_blocks)
        material.metric("final").save(folder.metric("final"))
        return VerificationSource(arms, seeds=seeds, flops=settings.trial_flops, ledger=ledger, spending=spending)

    train_images_NCHW, train_masks_NHW = material.for_workers("train")
    inputs = WorkerInputs(
        run_folder=str(folder.path.resolve()),
        train_images_NCHW=train_images_NCHW,
        train_masks_NHW=train_masks_NHW,
        train_classes=material.classes,
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
        address=settings.address,
        share=1 / settings.trials_per_gpu,
    ) as executor:
        executor.run(source, inputs=inputs)


def _served(space: Space, *, asked: SearchRequest | RunSettings, size_px: int, material: Material) -> Space:
    """What of a space the data and the model can serve. Raises: SpaceError where nothing is left."""
    longest = _max_frames(asked, size_px=size_px)
    return space.for_data(has_masks=material.image_set.has_masks).for_model(max_frames=longest)


def _max_frames(asked: SearchRequest | RunSettings, *, size_px: int) -> int | None:
    return max_frames(asked.model, preset=asked.preset, size_px=size_px)


def _model_version(name: str) -> dict[str, str]:
    package = model_package(name)
    return {} if package is None else {_MODEL_PACKAGE: package}


def _controls(space: Space, *, seed: int) -> tuple[Control, ...]:
    return (*default_controls(), *random_controls(space.random_policy, seed=seed))


def _num_devices(budget: Budget, *, trials_per_gpu: int, address: str | None) -> int:
    """How many devices of the budget's kind there are: the GPUs torch sees or the cores we may use, or a cluster's."""
    if budget.device == "cpu" and trials_per_gpu > 1:
        raise BudgetError(f"--trials-per-gpu {trials_per_gpu} needs a budget of GPU time, but got --budget {budget}.")
    if address is not None:
        return num_devices(address, device=budget.device)
    if budget.device == "cpu":
        return len(os.sched_getaffinity(0))
    if not torch.cuda.is_available():
        raise BudgetError(f"--budget {budget} asks for GPU time, but torch sees no GPU here; use cpu-h or cpu-min.")
    return torch.cuda.device_count()


def _calibrate(
    asked: SearchRequest | RunSettings, *, material: Material, plan: TrainingPlan, device: str
) -> tuple[Speed, float]:
    """The speed of a device, and the FLOPs of a step; on a cluster it is measured there."""
    arguments: dict[str, Any] = {
        "model": asked.model,
        "preset": asked.preset,
        "images_NCHW": material.images("train"),
        "classes": material.classes,
        "metric": material.metric("search"),
        "plan": plan,
        "device": _TORCH_DEVICE[device],
    }
    if asked.address is None:
        return calibrate(**arguments)
    measured: tuple[Speed, float] = call_on_device(calibrate, arguments, address=asked.address, device=device)
    return measured
