"""What a full training is asked for, and what it came to."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autopv.errors import CheckpointError, InputError
from autopv.metrics.choice import AUTO
from autopv.policy import Policy
from autopv.training.checkpoint_file import FILE_NAME
from autopv.training.course import LookRecord
from autopv.training.material import Setup
from autopv.training.plan import TrainingPlan


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Setup):
    """A full training; `steps` is how many image-only steps its compute pays for (a longer video gets fewer).

    num_looks: at 1/2^k ... 1/4, 1/2 and all of the compute it is measured. patience: looks in a row that may bring
    nothing better; 0 never gives up. None leaves both to autopv. all_images: learn from the search and final splits
    too; nothing is measured then. keep_every: also keep the model after each so many steps of this training.
    force: with `resume`, go on although policy, length, seed, data, metric, looks or autopv's version are others.
    precision and compiled: None takes what is fastest here, found out by trying, or what a resumed training began with.
    batch_size, learning_rate, kl_weight: None leaves them to the plan. flips: half of the images are mirrored.
    """

    policy: Policy
    out: Path
    steps: int
    device: str = "cpu"
    resume: bool = False
    force: bool = False
    precision: str | None = None
    compiled: bool | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    kl_weight: float | None = None
    flips: bool = False
    num_looks: int | None = None
    patience: int | None = None
    all_images: bool = False
    keep_every: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("num_looks", 1), ("patience", 0), ("keep_every", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} >= {least} must hold for a training, but got {name}={value}")
        if self.force and not self.resume:
            raise InputError("--force tells --resume to go on under other settings; leave it out without --resume")
        if self.all_images:
            given: dict[str, object] = {"--looks": self.num_looks, "--patience": self.patience}
            given["--metric"] = None if self.metric == AUTO else self.metric
            for flag, value in given.items():
                if value is not None:
                    raise InputError(
                        f"--all-images leaves no image to measure by, so {flag} {value} would change nothing: leave "
                        "one of the two out"
                    )

    @property
    def plan(self) -> TrainingPlan:
        """What is asked of the training; its length is still to be set. Raises: InputError where it breaks a rule."""
        return TrainingPlan.asked(
            model=self.model,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            kl_weight=self.kl_weight,
            flips=self.flips,
        )

    def check_out(self) -> None:
        """Nothing, if `out` can be trained into. Raises: CheckpointError."""
        out, holds_checkpoint = self.out, (self.out / FILE_NAME).exists()
        if self.resume:
            if not holds_checkpoint:
                raise CheckpointError(f"--resume: {out} holds no {FILE_NAME}; leave --resume out to start there.")
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            hint = "add --resume to go on with the training in it, or " if holds_checkpoint else ""
            raise CheckpointError(f"--out {out} is not empty and nothing is overwritten: {hint}choose another folder.")


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a full training came to. distances: of last frames on the search split, None where nothing was measured.

    ended: `compute` (all of it spent) or `patience`. steps: behind the model of the last look; look_steps: beside them,
    on the decays of looks before the end. took_s: in this launch.
    """

    metric: str | None
    num_images: int | None
    floor: float | None
    looks: tuple[LookRecord, ...]
    best: LookRecord | None
    ended: str
    trained_on: str
    num_train_images: int
    steps: int
    total_steps: int
    look_steps: int
    took_s: float

    @property
    def excess(self) -> float | None:
        """The best distance minus the floor."""
        if self.best is None or self.best.distance is None or self.floor is None:
            return None
        return self.best.distance - self.floor

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON types."""
        return {**asdict(self), "excess": self.excess}
