"""Run folders as a search leaves them, in seconds: the real study, ledger, event log and conclusion, made distances."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autopv.search.board import Board
from autopv.search.budget import Budget
from autopv.search.conclusion import choose_arms, conclude
from autopv.search.events import EventLog
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.spaces.toml_io import find_space
from autopv.training.material import Material, Setup
from autopv.training.plan import TrainingPlan
from autopv.verify.blocks import fresh_seeds
from autopv.verify.controls import IMAGE_ONLY, default_controls, random_controls

# Long ago, so that no page takes a made run for one at work; whole, for readable dates.
STARTED_S = 1_790_000_000.0
_ITEM_S = 40.0
_SPACE = "stage2_expressive"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a made run went.

    gain: share of image-only's excess that the best searched policies take away. num_blocks: of verification.
    stop: where it was interrupted: before its first trial ("start"), "search", "verify", or not at all ("").
    failure: what every trial and run ended with, if they failed. train_steps: of the training that it is for.
    """

    num_trials: int = 9
    num_blocks: int = 3
    gain: float = 0.25
    budget: str = "40cpu-min"
    rungs: tuple[float, ...] = (0.5, 1.0)
    stop: str = ""
    failure: str | None = None
    train_steps: int | None = None


def write_ramps(path: Path) -> Path:
    """160 grey 16 px images in one .npy file, each a ramp of its own slope with noise; returns the path."""
    rng = np.random.default_rng(0)
    images = 128 + rng.uniform(-80, 80, (160, 1, 1)) * np.linspace(0, 1, 16) + rng.normal(0, 12, (160, 16, 16))
    np.save(path, images.clip(0, 255).astype(np.uint8))
    return path


class RunMaker:
    """Makes run folders without checkpoints, all on the images of one file."""

    def __init__(self, images: Path) -> None:
        self._images, self._material = images, Material.load(Setup(data=str(images), size_px=16))

    def make(self, path: Path, recipe: Recipe) -> RunFolder:
        """A run folder in `path`, as the recipe wants it."""
        return _Run(path, images=self._images, material=self._material, recipe=recipe).make()


class _Run:
    def __init__(self, path: Path, *, images: Path, material: Material, recipe: Recipe) -> None:
        self._recipe, self._data = recipe, str(images)
        self._folder = RunFolder.create(path)
        self._material = material
        self._now_s = STARTED_S
        self._rng = np.random.default_rng(0)
        self._space = Space.load(_SPACE).for_data(has_masks=False)
        self._floor = self._material.floor("search")

    def make(self) -> RunFolder:
        folder, recipe = self._folder, self._recipe
        settings = self._settings()
        folder.write_settings(settings)
        folder.space.write_bytes(find_space(_SPACE)[1].read_bytes())
        if recipe.stop == "start":
            return folder
        self._events = EventLog(folder.events, listener=Board(folder))
        controls = (*default_controls(), *random_controls(self._space.random_policy, seed=0))
        study = SearchStudy(folder.study, space=self._space, controls=controls, seed=0, rungs=recipe.rungs)
        self._ledger = Ledger(folder.ledger, clock=lambda: self._now_s)
        for _ in range(recipe.num_trials):
            item = study.propose(flops=1e12)
            outcome = self._run(item, phase="search", judge=lambda look, item=item: study.judge(item, look))
            study.finish(item, outcome)
        if recipe.stop == "search":
            study.propose(flops=1e12)
            return self._close()
        arms = choose_arms(study.records(), floor=self._floor)
        self._ledger.set_state("arms", [arm.to_dict() for arm in arms])
        self._ledger.set_state("phase", "verify")
        for seed in fresh_seeds(0, num_seeds=recipe.num_blocks):
            for i, arm in enumerate(arms):
                if recipe.stop == "verify" and i == len(arms) - 1:
                    return self._close()
                item = WorkItem(
                    key=f"verify-{arm.name}-{seed}",
                    label=arm.name,
                    policy=arm.policy.to_dict(),
                    seed=seed,
                    rungs=(1.0,),
                    split="final",
                    flops=1e12,
                )
                outcome = self._run(item, phase="verify", judge=lambda look: look.fraction < 1)
                distance = None if outcome.look is None else outcome.look.distance
                result = VerificationResult(
                    arm=arm.name, seed=seed, distance=distance, failure=outcome.failure, checkpoint=item.key
                )
                self._ledger.record_verification(result)
        conclude(
            folder,
            settings=settings,
            material=self._material,
            ledger=self._ledger,
            records=study.records(),
            budget=Budget.parse(recipe.budget),
        )
        self._ledger.set_state("phase", "done")
        return self._close()

    def _close(self) -> RunFolder:
        self._ledger.close()
        return self._folder

    def _run(self, item: WorkItem, *, phase: str, judge: Callable[[Look], bool]) -> Outcome:
        self._ledger.grant(item.key, phase=phase)
        self._events.emit("item_started", phase=phase, key=item.key, label=item.label, seed=item.seed)
        outcome = self._outcome(item, phase=phase, judge=judge)
        self._ledger.release(item.key)
        return outcome

    def _outcome(self, item: WorkItem, *, phase: str, judge: Callable[[Look], bool]) -> Outcome:
        quality = self._quality(item)
        last = None
        for rung in item.rungs:
            self._now_s += _ITEM_S / len(item.rungs)
            self._ledger.record_usage(item.key, training_s=30.0 / len(item.rungs), evaluation_s=4.0 / len(item.rungs))
            if self._recipe.failure is not None:
                return Outcome(status="failed", failure=self._recipe.failure)
            noise = float(self._rng.normal(1, 0.03))
            last = Look(
                fraction=rung,
                distance=self._floor + 500 * quality * noise / rung**0.7,
                steps=round(400 * rung),
                flops=1e12,
            )
            self._events.emit(
                "look",
                phase=phase,
                key=item.key,
                label=item.label,
                fraction=rung,
                distance=last.distance,
                steps=last.steps,
                goes_on=rung < 1,
                spent_s=self._ledger.spent_s(),
            )
            if not judge(last) and rung < item.rungs[-1]:
                return Outcome(status="stopped", look=last)
        return Outcome(status="complete", look=last)

    def _quality(self, item: WorkItem) -> float:
        """The item's excess in units of image-only's, equal for equal policies."""
        if item.label == IMAGE_ONLY:
            return 1.0
        draw = np.random.default_rng(sum(str(item.policy).encode())).uniform(0.6, 1.6)
        searched = "search" in item.label
        return float((1 - self._recipe.gain) * draw / 0.75 if searched else 0.85 + 0.25 * draw)

    def _settings(self) -> RunSettings:
        material, recipe = self._material, self._recipe
        return RunSettings(
            data=self._data,
            size_px=16,
            channels=material.image_set.channels,
            group_by=None,
            data_digest=material.image_set.digest,
            splits_digest=material.splits.digest,
            num_images=len(material.image_set),
            model="hvae",
            classes=False,
            preset="tiny",
            metric=material.metric("search").identity.name,
            metric_num_images=material.choice.num_images,
            space=_SPACE,
            space_digest=self._space.digest,
            sampler="tpe",
            stopping="halving",
            repeat_share=0.25,
            screen=0.8,
            given={},
            warm_start=(),
            budget=recipe.budget,
            seed=0,
            num_workers=2,
            trials_per_gpu=1,
            address=None,
            num_seeds=max(1, recipe.num_blocks),
            trial_steps=400,
            train_steps=recipe.train_steps,
            trial_flops=1e12,
            rungs=recipe.rungs,
            training=TrainingPlan(total_flops=1e12).to_dict(),
            num_reserved=0,
            versions={"python": "3.11", "torch": "2", "device": "a machine", "commit": "0123456789ab"},
        )
