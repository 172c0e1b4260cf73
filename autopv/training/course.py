"""The course of a full training: where it is measured, when it gives up, and what its looks have shown so far."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from autopv.metrics.classes import ClassKernel


@dataclass(frozen=True, kw_only=True)
class LookRecord:
    """One look: where its decay ended, all steps paid for by then, and the distance (None: it was not measured).

    classes: the kernel distance x 1000 within each class, of a model with classes.
    """

    fraction: float
    step: int
    steps_done: int
    distance: float | None
    classes: Mapping[str, ClassKernel] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LookRecord":
        """The look that was written as JSON types."""
        classes = values.get("classes")
        known = None if classes is None else {name: ClassKernel(**one) for name, one in classes.items()}
        return cls(**{**values, "classes": known})


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a full training's checkpoint holds beside the state of its trainer.

    trained_on: `train` (that split), or `all` (every image, so that none is left to measure by).
    num_looks: as asked for. fractions: where in the compute they are, which may be fewer, ascending. patience: looks in
    a row that may bring nothing better; 0 never gives up. metric: the identity of the distance. floor: what a perfect
    generator could reach. log_folder: where in the training's folder the log is written.
    """

    data: str
    group_by: str | None
    trained_on: str
    num_looks: int
    fractions: tuple[float, ...]
    patience: int
    metric: Mapping[str, Any] | None
    floor: float | None
    log_folder: str
    looks: tuple[LookRecord, ...] = ()

    @property
    def best(self) -> LookRecord | None:
        """The look with the least distance, the earlier one of equals; None before the first measured one."""
        measured = [(look.distance, look.step, look) for look in self.looks if look.distance is not None]
        return min(measured, key=lambda entry: entry[:2])[2] if measured else None

    @property
    def fractions_ahead(self) -> tuple[float, ...]:
        """Where the next looks are, if none of them is the last."""
        return () if self.gives_up else self.fractions[len(self.looks) :]

    @property
    def gives_up(self) -> bool:
        """Whether the last `patience` looks have brought nothing better than an earlier one."""
        if self.patience == 0 or self.best is None:
            return False
        return len(self.looks) - 1 - self.looks.index(self.best) >= self.patience

    def after(self, look: LookRecord) -> "Course":
        """The course with one look more."""
        return replace(self, looks=(*self.looks, look))

    def to_dict(self) -> dict[str, Any]:
        """The course as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Course":
        """The course that `to_dict` wrote. Raises: KeyError or TypeError for anything else."""
        looks = tuple(LookRecord.from_dict(look) for look in values["looks"])
        return cls(**{**values, "fractions": tuple(values["fractions"]), "looks": looks})


def look_fractions(num_looks: int, *, total_steps: int) -> tuple[float, ...]:
    """1/2^(num_looks - 1), ..., 1/4, 1/2, 1: of those that fall on one step only the last.

    >>> look_fractions(4, total_steps=800)
    (0.125, 0.25, 0.5, 1.0)
    >>> look_fractions(4, total_steps=2)
    (0.5, 1.0)
    """
    by_step: dict[int, float] = {}
    for halvings in reversed(range(num_looks)):
        by_step[end_step(0.5**halvings, total_steps=total_steps)] = 0.5**halvings
    return tuple(by_step.values())


def end_step(fraction: float, *, total_steps: int) -> int:
    """The step at which a look at `fraction` of the compute ends."""
    return max(1, round(fraction * total_steps))


def start_step(fraction: float, *, total_steps: int, decay_fraction: float) -> int:
    """The step at which the decay of a look at `fraction` leaves the trunk."""
    return round((1 - decay_fraction) * end_step(fraction, total_steps=total_steps))
