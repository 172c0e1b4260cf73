"""The training loop: a trunk at a constant rate, and annealed looks that branch off it."""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.data.class_labels import ClassLabels
from autopv.errors import BudgetError, DataError, InputError
from autopv.models.base import LossTerms, VideoGenerator, build_model
from autopv.policy.policy import Policy
from autopv.policy.render import Part
from autopv.training.course import end_step as look_end_step
from autopv.training.course import start_step as look_start_step
from autopv.training.execution import Execution
from autopv.training.learner import Learner
from autopv.training.plan import TrainingPlan
from autopv.training.render_clock import RenderClock
from autopv.training.streams import BatchOrder, stream
from autopv.training.team import Team

# Often enough for a live panel, seldom enough to cost nothing.
PROGRESS_EVERY_S = 2.0
# Forward plus backward (gradients of activations and of weights) against forward alone.
TRAINING_FLOPS_FACTOR = 3
# Ops that take from other images find this many, spread over the data: enough variety, and held on the device.
MAX_DONORS = 256
# Images that take more than this share of a GPU's free memory stay where they are and travel batch by batch.
MOST_OF_GPU = 0.25
_DIGESTED_ROWS = 4096


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands: position of the current branch, all steps paid for, and the last step's loss."""

    position: int
    total_steps: int
    steps_done: int
    flops_spent: float
    learning_rate: float
    total_loss: float
    terms: Mapping[str, float]
    look_fraction: float | None


@dataclass(frozen=True)
class Look:
    """A decay branch under way or finished: where it ends, and the trunk it left."""

    end_step: int
    trunk_step: int
    trunk_tensors: Mapping[str, Tensor]


class Trainer:
    """One training of one model on one policy, measured in steps of equal compute.

    Everything that happens at a step depends on its number and the seed alone, so equal arguments give equal
    trainings, and a state carried over by `autopv.training.checkpoint` goes on bit for bit (on one device type).

    masks_NHW: true where a defect is, for policies whose ops need to know. classes: of the images, as a condition of
    the model; None trains it without.
    team: the processes that train together; each is given all images and takes its part of every batch.

    Raises:
        DataError: the images are not uint8 of the stated shape, or there are none; the policy needs masks, and there
            are none; there is not one label for each image.
        BudgetError: the plan does not pay for a single step.
        ModelError: the model cannot be built so (unknown name, size, more frames than levels).
        InputError: the team cannot take equal parts of a batch.
    """

    def __init__(
        self,
        model_name: str,
        *,
        preset: str,
        size_px: int,
        channels: int,
        policy: Policy,
        images_NCHW: Tensor,
        masks_NHW: Tensor | None = None,
        classes: ClassLabels | None = None,
        plan: TrainingPlan,
        seed: int,
        device: torch.device | str = "cpu",
        execution: Execution | None = None,
        team: Team | None = None,
    ) -> None:
        if images_NCHW.dtype != torch.uint8 or tuple(images_NCHW.shape[1:]) != (channels, size_px, size_px):
            raise DataError(
                f"training images must be uint8 of shape (N, {channels}, {size_px}, {size_px}), "
                f"but got {images_NCHW.dtype} of shape {tuple(images_NCHW.shape)}"
            )
        if len(images_NCHW) == 0:
            raise DataError("training needs at least one image, but got none")
        if classes is not None and len(classes.labels_N) != len(images_NCHW):
            raise DataError(f"labels must be one per image ({len(images_NCHW)}), but got {len(classes.labels_N)}")
        self.model_name, self.preset, self.size_px, self.channels = model_name, preset, size_px, channels
        # The canonical form: policies that render alike train alike, to the bit.
        policy = policy.canonical()
        self.policy, self.plan, self.seed, self.device = policy, plan, seed, torch.device(device)
        self.class_names = () if classes is None else classes.names
        self.class_counts = () if classes is None else classes.counts
        model = build_model(
            model_name,
            preset=preset,
            size_px=size_px,
            channels=channels,
            num_frames=policy.num_frames,
            num_classes=len(self.class_names),
            seed=seed,
        )
        if classes is not None:
            model.class_counts = torch.tensor(self.class_counts)
        model = model.to(self.device)
        self.flops_per_step = TRAINING_FLOPS_FACTOR * plan.batch_size * model.flops_per_image(policy.num_frames)
        # Rounded down: a training never costs more than it was given.
        self.total_steps = int(plan.total_flops / self.flops_per_step)
        if self.total_steps < 1:
            raise BudgetError(
                f"a training must pay for one step at least ({self.flops_per_step:.3g} FLOPs with {policy.num_frames} "
                f"frames, batch {plan.batch_size}), but got total_flops={plan.total_flops:.3g}: give it more"
            )
        if "masks" in policy.needs and masks_NHW is None:
            raise DataError(
                f"the policy needs defect masks ({policy.describe()}), but these images have none; give data with "
                "masks (an MVTec-style tree, or masks beside the images), or take another policy"
            )
        used_masks_NHW = masks_NHW if "masks" in policy.needs else None
        # Left on the CPU, where they are checked at every step without waiting for a device.
        self._labels_N = None if classes is None else classes.labels_N
        self.data_digest = training_digest(images_NCHW, used_masks_NHW, self._labels_N)
        self._team = team or Team()
        self._rows = self._team.rows(plan.batch_size)
        self.learner = Learner(model, plan=plan, execution=execution, team=self._team)
        self.steps_done = 0
        self._render_clock = RenderClock(self.device)
        self.look: Look | None = None
        self._images_NCHW = _resident(images_NCHW, device=self.device)
        self._masks_NHW = None if used_masks_NHW is None else _resident(used_masks_NHW, device=self.device)
        self._donors_NCHW = None
        if "donors" in policy.needs:
            count = min(MAX_DONORS, len(images_NCHW))
            chosen = torch.arange(count) * len(images_NCHW) // count
            self._donors_NCHW = self._take(self._images_NCHW, chosen).float().div_(255)
        self._order = BatchOrder(len(images_NCHW), batch_size=plan.batch_size, seed=seed)

    @property
    def position(self) -> int:
        """Steps behind the current weights (inside a look: trunk and branch together)."""
        return self.learner.num_steps

    @property
    def trunk_position(self) -> int:
        """Steps behind the trunk, where training goes on after a look."""
        return self.position if self.look is None else self.look.trunk_step

    @property
    def progress(self) -> float:
        """The share of the total compute behind the current weights."""
        return self.position / self.total_steps

    @property
    def total_flops(self) -> float:
        """What the whole training without its early looks costs: a whole number of steps."""
        return self.total_steps * self.flops_per_step

    @property
    def flops_spent(self) -> float:
        """What every step so far has cost, those of discarded branches included."""
        return self.steps_done * self.flops_per_step

    @property
    def flops_position(self) -> float:
        """The compute behind the trunk."""
        return self.trunk_position * self.flops_per_step

    @property
    def rendering_s(self) -> float:
        """Seconds that this process spent rendering frames; on a GPU an estimate from some of the steps."""
        return self._render_clock.seconds

    def train_until(
        self,
        fraction: float,
        *,
        on_progress: Callable[[TrainingProgress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> bool:
        """True once the trunk stands at `fraction` of the total compute; False if `should_stop` said so before.

        A look left open is closed first: the trunk goes on from where it branched off.

        Raises:
            TrainingDiverged: a loss or gradient is no longer finite.
        """
        end_step = self._step_at(fraction)
        self.close_look()
        return self._advance(end_step, decay=False, on_progress=on_progress, should_stop=should_stop)

    def averaged_look(self, fraction: float, *, should_stop: Callable[[], bool] | None = None) -> VideoGenerator | None:
        """The averaged model at `fraction` of the total compute, not annealed; None if stopped before.

        It costs no branch of its own, and ranks policies as well as an annealed one (experiments/effect), but its
        distance is not comparable with that of an annealed model.

        Raises:
            TrainingDiverged: a loss or gradient is no longer finite.
        """
        return self.learner.averaged_model() if self.train_until(fraction, should_stop=should_stop) else None

    def annealed_look(
        self,
        fraction: float,
        *,
        on_progress: Callable[[TrainingProgress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> VideoGenerator | None:
        """The averaged model after annealing that ends at `fraction` of the total compute; None if stopped before.

        The trunk is trained to where the decay begins and kept aside; it comes back with the next call that needs it.
        Asked again for the same fraction (after an interruption, say), an unfinished look goes on and a finished one
        costs nothing. The look at 1.0 is the final model.

        Raises:
            InputError: the trunk has already passed the point where this decay would begin.
            TrainingDiverged: a loss or gradient is no longer finite.
        """
        end_step = self._step_at(fraction)
        if self.look is None or self.look.end_step != end_step:
            start_step = look_start_step(
                fraction, total_steps=self.total_steps, decay_fraction=self.plan.decay_fraction
            )
            self.close_look()
            if self.position > start_step:
                raise InputError(
                    f"a look at {fraction:g} anneals from step {start_step}, but the trunk already stands at step "
                    f"{self.position} of {self.total_steps}: look at a later fraction"
                )
            if not self._advance(start_step, decay=False, on_progress=on_progress, should_stop=should_stop):
                return None
            self.look = Look(end_step, self.position, self.learner.tensors())
        if not self._advance(end_step, decay=True, on_progress=on_progress, should_stop=should_stop):
            return None
        return self.learner.averaged_model()

    def close_look(self) -> None:
        """Nothing; the weights are the trunk's again."""
        if self.look is not None:
            self.learner.restore(self.look.trunk_tensors)
            self.look = None

    def _step_at(self, fraction: float) -> int:
        if not 0 < fraction <= 1:
            raise InputError(f"0 < fraction <= 1 must hold for a point in a training, but got fraction={fraction!r}")
        return look_end_step(fraction, total_steps=self.total_steps)

    def _advance(
        self,
        end_step: int,
        *,
        decay: bool,
        on_progress: Callable[[TrainingProgress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> bool:
        decay_until = end_step if decay else None
        reported_at_s = time.monotonic()
        while self.position < end_step:
            if should_stop is not None and should_stop():
                return False
            # The middle of the step: the first one does not stand still, nor does the last one of a decay.
            middle = self.position + 0.5
            learning_rate = self.plan.learning_rate_at(middle, total_steps=self.total_steps, decay_until=decay_until)
            loss = self._step(learning_rate)
            now_s = time.monotonic()
            if on_progress is not None and (now_s - reported_at_s >= PROGRESS_EVERY_S or self.position == end_step):
                reported_at_s = now_s
                on_progress(
                    TrainingProgress(
                        position=self.position,
                        total_steps=self.total_steps,
                        steps_done=self.steps_done,
                        flops_spent=self.flops_spent,
                        learning_rate=learning_rate,
                        total_loss=float(loss.total_loss.detach()),
                        terms={name: float(value) for name, value in loss.terms.items()},
                        look_fraction=None if decay_until is None else decay_until / self.total_steps,
                    )
                )
        return True

    def _step(self, learning_rate: float) -> LossTerms:
        step = self.position
        indices = self._order.indices(step)[self._rows]
        images_BCHW = self._take(self._images_NCHW, indices).float().div_(255)
        masks_BHW = None if self._masks_NHW is None else self._take(self._masks_NHW, indices)
        if self.plan.horizontal_flips:
            coins_B = torch.rand(self.plan.batch_size, generator=stream(self.seed, purpose="flip", step=step))
            flips_B = coins_B[self._rows].to(self.device) < 0.5
            images_BCHW = torch.where(flips_B[:, None, None, None], images_BCHW.flip(-1), images_BCHW)
            if masks_BHW is not None:
                masks_BHW = torch.where(flips_B[:, None, None], masks_BHW.flip(-1), masks_BHW)
        with self._render_clock:
            frames_BTCHW = self.policy.render(
                images_BCHW,
                generator=stream(self.seed, purpose="render", step=step),
                masks_BHW=masks_BHW,
                donors=self._donors_NCHW,
                part=None if self._team.size == 1 else Part(self._rows.start, self.plan.batch_size),
            )
        loss = self.learner.step(
            frames_BTCHW,
            frame_weights_T=self.policy.frame_weights(self.progress),
            kl_weight=self.plan.kl_weight_at(step, total_steps=self.total_steps),
            learning_rate=learning_rate,
            generator=stream(self.seed, purpose="posterior", step=step, device=self.device),
            labels=None if self._labels_N is None else self._labels_N[indices],
        )
        self.steps_done += 1
        return loss

    def _take(self, rows: Tensor, indices: Tensor) -> Tensor:
        """Some rows on the training device, wherever all of them are kept."""
        return rows[indices.to(rows.device)].to(self.device)


def _resident(rows: Tensor, *, device: torch.device) -> Tensor:
    """The rows on the device; where they would take too much of a GPU's memory, as they are."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if rows.nbytes > MOST_OF_GPU * free:
            return rows
    return rows.to(device)


def training_digest(images_NCHW: Tensor, masks_NHW: Tensor | None, labels_N: Tensor | None = None) -> str:
    """sha256 (hex) of everything a training sees."""
    digest = hashlib.sha256()
    for rows in (images_NCHW, masks_NHW, labels_N):
        if rows is not None:
            # In parts: the images may be more than fit into memory.
            for part in torch.split(rows, _DIGESTED_ROWS):
                digest.update(part.contiguous().cpu().numpy().data)
    return digest.hexdigest()
