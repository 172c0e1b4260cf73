"""What a full training tells whoever listens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from autopv.training.course import Course, LookRecord
from autopv.training.trainer import TrainingProgress


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What is about to be trained. position: steps behind the weights. look_steps: decays ahead, but the last one's.

    classes: how many of the images are of each class, and of NO_CLASS; empty of a model without classes.
    """

    policy: str
    num_images: int
    position: int
    total_steps: int
    look_steps: int
    course: Course
    classes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FullProgress:
    """Where a full training stands, and what is ahead unless it gives up before.

    steps_ahead: the looks' decays included. looks_ahead: measurements. seconds_ahead: both, at the pace so far.
    images_per_s: since the last report. steps_per_s: since this launch.
    """

    training: TrainingProgress
    steps_ahead: int
    looks_ahead: int
    seconds_ahead: float
    steps_per_s: float
    images_per_s: float
    best: LookRecord | None


class TrainingListener:
    """Hears of a full training; this one keeps it to itself."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def began(self, beginning: Beginning) -> None:
        """Once, before the first step."""

    def progress(self, progress: FullProgress) -> None:
        """Every two seconds or so."""

    def looked(self, look: LookRecord, *, course: Course) -> None:
        """After each look; `course` holds it already."""
