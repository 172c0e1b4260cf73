"""How long and how a model is trained, with every schedule a function of the compute spent."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from autopv.errors import InputError, nearest
from autopv.models.base import plan_defaults

# At full weight from the start the KL terms silence most latents before the decoder can use them: measured, the samples
# of a brief training are clearly worse without a warm-up.
FIRST_KL_SHARE = 0.05


# FLOPs of a plan whose length is set once the cost of a step is known.
_NO_LENGTH = 1e15


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A length in FLOPs and the optimiser's settings; the defaults are those measured for hvae `tiny` at 16 px.

    The learning rate warms up over `warmup_steps`, then stays constant (the trunk); likewise the weight of a VAE's KL
    terms over `loss_warmup_steps`. Both are counted in steps, not in shares of the whole: the first part of a long
    training is then a brief training, and a look at it is worth as much. (Of a training too short for that, at most a
    tenth is warm-up.) A measured model is annealed: over the last `decay_fraction` of the compute up to the measurement
    the learning rate falls linearly to 0.
    """

    total_flops: float
    batch_size: int = 32
    learning_rate: float = 5e-3
    warmup_steps: int = 32
    loss_warmup_steps: int = 160
    # How often the KL terms count (the beta of Higgins et al., ICLR 2017). Above 1 the latents carry less, and what the
    # prior draws is nearer to what the decoder was trained on: good where a few simple images are learnt by heart.
    kl_weight: float = 1.0
    decay_fraction: float = 0.3
    weight_decay: float = 0.01
    beta1: float = 0.9
    # Short trainings: the second moment must forget within a hundred steps.
    beta2: float = 0.99
    ema: float = 0.99
    # A gradient norm above this many times its running mean is clipped to it: relative, because the loss of a
    # likelihood with a learned scale steepens all through training, and a fixed bound would end up clipping every step.
    grad_clip: float = 3.0
    # A step whose norm is above this many times the running mean is not taken at all (VDVAE's gradient skipping).
    grad_skip: float = 100.0
    horizontal_flips: bool = False

    @classmethod
    def asked(
        cls,
        *,
        model: str,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        kl_weight: float | None = None,
        flips: bool = False,
    ) -> "TrainingPlan":
        """The defaults for a family, but for what a user asks for; its length is still to be set.

        Raises: InputError where a value breaks its rule; ModelError for an unknown family.
        """
        asked = {"batch_size": batch_size, "learning_rate": learning_rate, "kl_weight": kl_weight}
        changes = {**plan_defaults(model), **{name: value for name, value in asked.items() if value is not None}}
        return cls.from_dict({"total_flops": _NO_LENGTH, "horizontal_flips": flips, **changes})

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

    def learning_rate_at(self, step: float, *, total_steps: int, decay_until: int | None = None) -> float:
        """The rate after that many steps: on the trunk, or in the decay that ends at step `decay_until`.

        >>> plan = TrainingPlan(total_flops=1e12, learning_rate=1.0, warmup_steps=10, decay_fraction=0.5)
        >>> [plan.learning_rate_at(step, total_steps=100) for step in (5, 50, 99)]
        [0.5, 1.0, 1.0]
        >>> [plan.learning_rate_at(step, total_steps=100, decay_until=40) for step in (20, 30, 40)]
        [1.0, 0.5, 0.0]
        """
        warm = _share(step, _at_most_a_tenth(self.warmup_steps, total_steps=total_steps))
        if decay_until is None:
            return self.learning_rate * warm
        # Rounded: a difference of fractions must not leave 1 - 1e-16 where the whole rate is meant.
        left = round((decay_until - step) / (self.decay_fraction * decay_until), 12)
        return self.learning_rate * warm * max(0.0, min(1.0, left))

    def kl_weight_at(self, step: float, *, total_steps: int) -> float:
        """How often the KL terms count after that many steps."""
        warm = _share(step, _at_most_a_tenth(self.loss_warmup_steps, total_steps=total_steps))
        return self.kl_weight * (FIRST_KL_SHARE + (1 - FIRST_KL_SHARE) * warm)

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


def _at_most_a_tenth(steps: int, *, total_steps: int) -> float:
    return min(float(steps), total_steps / 10)


def _share(step: float, steps: float) -> float:
    return min(1.0, step / steps) if steps > 0 else 1.0


def _broken_type_rule(name: str, value: object) -> str | None:
    if name == "horizontal_flips":
        return None if isinstance(value, bool) else "true or false"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "a finite number"
    return "a whole number" if name in _WHOLE and not isinstance(value, int) else None


_WHOLE = ("batch_size", "warmup_steps", "loss_warmup_steps")
# Inclusive bounds; the decay must leave a trunk to branch from, an EMA of 1 would never move.
_BOUNDS = (
    ("total_flops", 1.0, 1e30),
    ("batch_size", 1, 65536),
    ("learning_rate", 1e-8, 1.0),
    ("warmup_steps", 0, 10**9),
    ("loss_warmup_steps", 0, 10**9),
    ("kl_weight", 0.0, 1000.0),
    ("decay_fraction", 0.01, 0.9),
    ("weight_decay", 0.0, 10.0),
    ("beta1", 0.0, 0.9999),
    ("beta2", 0.0, 0.999999),
    ("ema", 0.0, 0.999999),
    ("grad_clip", 1.0, 1e6),
    ("grad_skip", 1.0, 1e30),
)
