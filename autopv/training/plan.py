"""How long and how a model is trained, with every schedule a function of the compute spent."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from autopv.errors import InputError, nearest


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A length in FLOPs and the optimiser's settings; the defaults are those measured for hvae `tiny` at 16 px.

    The rate warms up over `warmup_fraction` of the whole training, then stays constant (the trunk). A measured model is
    annealed: over the last `decay_fraction` of the compute up to the measurement the rate falls linearly to 0.
    """

    total_flops: float
    batch_size: int = 32
    learning_rate: float = 5e-3
    warmup_fraction: float = 0.02
    decay_fraction: float = 0.3
    weight_decay: float = 0.01
    beta1: float = 0.9
    # Short trainings: the second moment must forget within a hundred steps.
    beta2: float = 0.99
    ema: float = 0.99
    # A gradient norm above this many times its running mean is clipped to it: relative, because the loss of a
    # likelihood with a learned scale steepens all through training, and a fixed bound would end up clipping every step.
    grad_clip: float = 3.0
    horizontal_flips: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            rule = _broken_type_rule(field.name, value)
            if rule is not None:
                raise InputError(f"{field.name} in a plan must be {rule}, but got {field.name}={value!r}")
        for name, low, high in _BOUNDS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"{low:g} <= {name} <= {high:g} must hold in a training plan, but got {name}={value!r}"
                )

    def learning_rate_at(self, fraction: float, *, decay_until: float | None = None) -> float:
        """The rate after `fraction` of the total compute: on the trunk, or in the decay that ends at `decay_until`.

        >>> plan = TrainingPlan(total_flops=1e12, learning_rate=1.0, warmup_fraction=0.1, decay_fraction=0.5)
        >>> [plan.learning_rate_at(f) for f in (0.05, 0.5, 0.99)]
        [0.5, 1.0, 1.0]
        >>> [plan.learning_rate_at(f, decay_until=0.4) for f in (0.2, 0.3, 0.4)]
        [1.0, 0.5, 0.0]
        """
        warm = min(1.0, fraction / self.warmup_fraction) if self.warmup_fraction > 0 else 1.0
        if decay_until is None:
            return self.learning_rate * warm
        # Rounded: a difference of fractions must not leave 1 - 1e-16 where the whole rate is meant.
        left = round((decay_until - fraction) / (self.decay_fraction * decay_until), 12)
        return self.learning_rate * warm * max(0.0, min(1.0, left))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingPlan":
        """The plan that `to_dict` wrote.

        Raises:
            InputError: an unknown key (with the nearest known one), a missing length, or a value out of bounds.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"unknown key {key!r} in a training plan.{nearest(key, known)}")
        if "total_flops" not in values:
            raise InputError("a training plan must state total_flops, but got none")
        return cls(**values)


def _broken_type_rule(name: str, value: object) -> str | None:
    if name == "horizontal_flips":
        return None if isinstance(value, bool) else "true or false"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "a finite number"
    return "a whole number" if name == "batch_size" and not isinstance(value, int) else None


# Inclusive bounds; the decay must leave a trunk to branch from, an EMA of 1 would never move.
_BOUNDS = (
    ("total_flops", 1.0, 1e30),
    ("batch_size", 1, 65536),
    ("learning_rate", 1e-8, 1.0),
    ("warmup_fraction", 0.0, 0.5),
    ("decay_fraction", 0.01, 0.9),
    ("weight_decay", 0.0, 10.0),
    ("beta1", 0.0, 0.9999),
    ("beta2", 0.0, 0.999999),
    ("ema", 0.0, 0.999999),
    ("grad_clip", 1.0, 1e6),
)
