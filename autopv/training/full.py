"""Full training: one policy, one model, measured on its way and stopped when nothing gets better, with checkpoints."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from autopv.data.pictures import image_grid
from autopv.errors import InputError, MetricError, StorageError, TrainingDiverged
from autopv.models.base import VideoGenerator
from autopv.policy import Policy
from autopv.training.checkpoint import (
    BEST_FOLDER,
    FILE_NAME,
    read_info,
    resume_checkpoint,
    save_checkpoint,
    save_model,
)
from autopv.training.checkpoint_file import remove_parts
from autopv.training.course import Course, LookRecord, end_step
from autopv.training.event_log import EventLog
from autopv.training.execution import Execution
from autopv.training.fastest import fastest_execution
from autopv.training.full_material import FullMaterial
from autopv.training.full_request import TrainRequest, TrainResult
from autopv.training.going_on import begin, go_on
from autopv.training.interrupts import DeferredInterrupts
from autopv.training.listener import Beginning, TrainingListener
from autopv.training.measure import distance_of_samples, sample_with_labels
from autopv.training.pace import Pace, look_steps_ahead
from autopv.training.plan import TrainingPlan
from autopv.training.team import Team
from autopv.training.trainer import Trainer, TrainingProgress

DEFAULT_LOOKS = 4
DEFAULT_PATIENCE = 2
CHECKPOINT_EVERY_S = 30.0
# A slow disk must not take more than this share of the time.
_SAVING_SHARE = 0.05
# Sample grids: as many images, in as many columns, and enlarged to about so many pixels if they are small.
_GRID_IMAGES, _GRID_COLUMNS, _GRID_PX = 64, 8, 64


def train_fully(
    request: TrainRequest,
    *,
    listener: TrainingListener | None = None,
    team: Team | None = None,
    asked_to_stop: Callable[[], bool] | None = None,
) -> TrainResult:
    """Trains into `request.out`, saving as it goes; resumes bit for bit where `request.resume` says so.

    There are then: the last checkpoint, to go on from; `best/`, the model of the best look; `step-N/` as asked for;
    `logs/` for TensorBoard; and policy.json.

    team: the processes that train together, each of which calls this. Only the first measures, saves and tells the
    listener; whatever it decides is done by all. asked_to_stop: asked by the first; true ends all like Ctrl-C.

    Raises:
        InputError: the request cannot be met; nothing has been written then.
        CheckpointError: the folder holds something already, or nothing to resume, or another training.
        TrainingDiverged: a loss, gradient or sample is no longer finite; the last checkpoint stands.
        StorageError: something could not be saved; the last checkpoint stands.
        KeyboardInterrupt: the user stopped it; all that was done is saved.
    """
    team = team or Team()
    listener = listener if listener is not None and team.is_first else TrainingListener()
    team.told(request.check_out)
    if request.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda needs a GPU that torch can use, but there is none; see `autopv doctor`")
    torch.set_num_threads(1)
    # In turn: what the first has fetched and decoded, the others find.
    material = team.in_turn(
        lambda: FullMaterial.load(request, all_images=request.all_images, is_measured=team.is_first)
    )
    trainer = _trainer(request, material, listener=listener, team=team)
    course = team.told(lambda: _course(request, material, trainer, listener=listener))
    if request.resume and not team.is_first:
        resume_checkpoint(trainer, request.out, force=request.force)
    team.any(False)  # all have read what the first may now write anew
    training = _FullTraining(
        request,
        material=material,
        trainer=trainer,
        course=course,
        listener=listener,
        team=team,
        asked_to_stop=asked_to_stop or (lambda: False),
    )
    return training.run()


class _FullTraining:
    """The loop over looks; what it has done lies in the folder at every moment."""

    def __init__(
        self,
        request: TrainRequest,
        *,
        material: FullMaterial,
        trainer: Trainer,
        course: Course,
        listener: TrainingListener,
        team: Team,
        asked_to_stop: Callable[[], bool],
    ) -> None:
        self._request, self._material, self._trainer, self._course = request, material, trainer, course
        self._team, self._asked_to_stop = team, asked_to_stop
        self._out = request.out
        self._listener = listener
        self._log = EventLog(request.out / course.log_folder)
        self._pace = Pace(trainer)
        self._fraction = 0.0
        self._saved_step = trainer.position if request.resume else None
        self._saved_steps_done = trainer.steps_done
        self._save_due_s = 0.0

    def run(self) -> TrainResult:
        """The looks that are ahead, one after the other, and what they came to."""
        started_s = time.monotonic()
        trainer = self._trainer
        self._listener.began(
            Beginning(
                policy=trainer.policy.describe(),
                num_images=len(self._material.images_NCHW),
                position=trainer.position,
                total_steps=trainer.total_steps,
                look_steps=look_steps_ahead(trainer, self._course),
                course=self._course,
                classes={} if self._material.classes is None else self._material.classes.by_name,
            )
        )
        try:
            # Saved before the first step: whenever it is interrupted, there is something to resume.
            self._save()
            self._team.told(lambda: self._request.policy.save(self._out / "policy.json", overwrite=True))
            while self._course.fractions_ahead:
                fraction = self._course.fractions_ahead[0]
                model = self._train_to(fraction)
                self._course = self._team.told(partial(self._look, model, fraction=fraction))
                self._note_saved()
        except (TrainingDiverged, StorageError) as error:
            raise type(error)(
                f"{error}; {self._what_stands()}"
                + (": make room and go on by --resume" if isinstance(error, StorageError) else "")
            ) from error
        finally:
            self._log.close()
        course, metric = self._course, self._material.metric
        last = course.looks[-1]
        result = TrainResult(
            metric=None if metric is None else metric.identity.name,
            num_images=None if metric is None else metric.identity.num_images,
            floor=course.floor,
            looks=course.looks,
            best=course.best,
            ended="compute" if last.fraction >= 1 else "patience",
            trained_on=course.trained_on,
            num_train_images=len(self._material.images_NCHW),
            steps=last.step,
            total_steps=trainer.total_steps,
            look_steps=last.steps_done - last.step,
            took_s=time.monotonic() - started_s,
        )
        return self._team.told(lambda: result)

    def _train_to(self, fraction: float) -> VideoGenerator:
        """The annealed model of the look at `fraction`, saved on the way whenever it is time."""
        self._fraction = fraction
        while True:
            # A step is never cut in two, and an interruption finds everything saved.
            with DeferredInterrupts() as interrupts:
                with self._pace.training():
                    model = self._trainer.annealed_look(
                        fraction,
                        on_progress=self._on_progress if self._team.is_first else None,
                        should_stop=lambda: self._team.any(
                            self._team.is_first
                            and (interrupts.asked or self._asked_to_stop() or self._is_save_due() or self._is_to_keep())
                        ),
                    )
                self._save()
            if self._team.any(self._team.is_first and self._asked_to_stop()):
                raise KeyboardInterrupt
            if model is not None:
                return model

    def _look(self, model: VideoGenerator, *, fraction: float) -> Course:
        """The course with what the model measures, kept: first the best model, then the record that names it."""
        metric, trainer = self._material.metric, self._trainer
        num_images = _GRID_IMAGES if metric is None else metric.identity.num_generated
        with self._pace.measuring():
            samples_NCHW, labels = sample_with_labels(model, num_images=num_images, seed=self._request.seed)
            distance = classes = None
            try:
                if metric is not None:
                    distance, classes = distance_of_samples(
                        samples_NCHW, labels, metric, class_names=trainer.class_names
                    )
            except MetricError as error:
                raise TrainingDiverged(f"the model of step {trainer.position} cannot be measured: {error}") from error
        step = end_step(fraction, total_steps=trainer.total_steps)
        look = LookRecord(
            fraction=fraction, step=step, steps_done=trainer.steps_done, distance=distance, classes=classes
        )
        course = self._course.after(look)
        if distance is not None and course.floor is not None and metric is not None:
            name = metric.identity.name
            self._log.scalars(
                "looks", {f"distance/{name}": distance, f"excess/{name}": distance - course.floor}, step=step
            )
        scale = max(1, _GRID_PX // samples_NCHW.shape[-1])
        grid_HWC = image_grid(samples_NCHW[:_GRID_IMAGES], columns=_GRID_COLUMNS, scale=scale)
        self._log.picture("looks", "samples", grid_HWC, step=step)
        with DeferredInterrupts():
            if course.best is look:
                save_model(trainer, self._out / BEST_FOLDER, course=course)
            self._course = course
            self._write()
        self._listener.looked(look, course=course)
        return course

    def _on_progress(self, progress: TrainingProgress) -> None:
        full = self._pace.report(progress, course=self._course)
        run = "trunk" if progress.look_fraction is None else f"look-{self._fraction:g}"
        values = {f"loss/{name}": value for name, value in progress.terms.items()}
        values |= {"loss/total": progress.total_loss, "learning_rate": progress.learning_rate}
        self._log.scalars(run, {**values, "images_per_s": full.images_per_s}, step=progress.position)
        self._listener.progress(full)

    def _save(self) -> None:
        """Nothing; all that was done is in the folder, and the model too where one is to be kept."""

        def write() -> None:
            if self._is_to_keep():
                save_model(self._trainer, self._kept(), course=self._course)
            self._write()

        self._team.told(write)
        self._note_saved()

    def _note_saved(self) -> None:
        self._saved_step, self._saved_steps_done = self._trainer.position, self._trainer.steps_done

    def _write(self) -> None:
        started_s = time.monotonic()
        save_checkpoint(self._trainer, self._out, course=self._course)
        self._note_saved()
        self._log.flush()
        ended_s = time.monotonic()
        self._save_due_s = ended_s + max(CHECKPOINT_EVERY_S, (ended_s - started_s) / _SAVING_SHARE)

    def _what_stands(self) -> str:
        if self._saved_step is None:
            return f"nothing could be saved in {self._out}"
        return f"the last good checkpoint, of step {self._saved_step}, stands in {self._out}"

    def _is_save_due(self) -> bool:
        # A step at least lies between two: however slow the disk is, the training goes on.
        return self._trainer.steps_done > self._saved_steps_done and time.monotonic() >= self._save_due_s

    def _is_to_keep(self) -> bool:
        """Whether the model that stands now was asked for, and is not a look's on the way: that one is taken back."""
        every, trainer = self._request.keep_every, self._trainer
        if every is None or trainer.position == 0 or trainer.position % every:
            return False
        look = trainer.look
        if look is not None and look.end_step < trainer.total_steps and trainer.position > look.trunk_step:
            return False
        return not (self._kept() / FILE_NAME).exists()

    def _kept(self) -> Path:
        return self._out / f"step-{self._trainer.position:06d}"


def _course(request: TrainRequest, material: FullMaterial, trainer: Trainer, *, listener: TrainingListener) -> Course:
    """Where the training is measured; gone on with, `trainer` has taken over what is in the folder."""
    looks = DEFAULT_LOOKS if request.num_looks is None else request.num_looks
    fresh = Course(
        data=request.data,
        group_by=request.group_by,
        trained_on=material.trained_on,
        num_looks=1 if request.all_images else looks,
        fractions=(),
        patience=0 if request.all_images else (DEFAULT_PATIENCE if request.patience is None else request.patience),
        metric=None if material.metric is None else material.metric.identity.to_dict(),
        floor=material.floor,
        log_folder="logs",
    )
    if not request.resume:
        return begin(trainer, fresh)
    remove_parts(request.out)
    return go_on(trainer, request.out, fresh, force=request.force, note=listener.note)


def _trainer(request: TrainRequest, material: FullMaterial, *, listener: TrainingListener, team: Team) -> Trainer:
    def build(policy: Policy, plan: TrainingPlan, execution: Execution, team: Team | None = None) -> Trainer:
        images_NCHW = material.images_NCHW
        return Trainer(
            request.model,
            preset=request.preset,
            size_px=images_NCHW.shape[-1],
            channels=images_NCHW.shape[1],
            policy=policy,
            images_NCHW=images_NCHW,
            masks_NHW=material.masks_NHW,
            classes=material.classes,
            plan=plan,
            seed=request.seed,
            device=request.device,
            execution=execution,
            team=team,
        )

    plan = request.plan
    flops_per_step = build(Policy.image_only(), plan, Execution()).flops_per_step
    plan = replace(plan, total_flops=request.steps * flops_per_step)
    precision, compiled = request.precision, request.compiled
    if request.resume:
        # For the same bits: what it began with, unless told otherwise.
        info = read_info(request.out)
        precision, compiled = precision or info.precision, info.compiled if compiled is None else compiled
    # Tried alone, by the first: as many steps, each of as many images as it will have.
    rows = team.rows(plan.batch_size)
    own = replace(plan, batch_size=rows.stop - rows.start, total_flops=plan.total_flops / team.size)
    choice = team.told(
        lambda: fastest_execution(
            lambda execution: build(request.policy, own, execution),
            device=request.device,
            precision=precision,
            compiled=compiled,
        )
    )
    if choice.step_s:
        listener.note(f"Carried out in {choice.describe()}.")
    return build(request.policy, plan, choice.execution, team)
