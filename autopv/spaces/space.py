"""A search space: one define-by-run description of all its policies, asked by trials, by records, and by chance."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autopv.errors import SpaceError, nearest
from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op
from autopv.spaces.ranges import Choice, FloatRange, IntRange
from autopv.spaces.toml_io import find_space, read_toml, space_values

Ask = Callable[[str, BaseDistribution], Any]
"""Answers one parameter: its name and what it may be."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The policies that a search may try, besides image-only training, which is in every space.

    Each layer is a slot: which op, one magnitude in [0, 1] shared by all ops (mapped to the op's own range), its
    curve. A policy comes out in its canonical form, unless that form itself lies outside the space (two layers that
    merge into one beyond its bounds). Floats have four significant digits.

    >>> space = Space.load("stage1_noise")
    >>> policy = space.random_policy(3)
    >>> space.decode(space.encode(policy)) == policy
    True
    """

    name: str
    num_frames: IntRange
    markov_order: Choice
    randomness: Choice
    frame_loss_weight: FloatRange | Choice
    frame_loss_until: FloatRange | Choice
    num_layers: IntRange
    curve: Choice
    magnitudes: tuple[tuple[str, FloatRange], ...]
    """Every op's name and magnitude range."""
    probability: FloatRange | Choice
    active_frames: Choice

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Space":
        """The shipped space of that name, or the one in that TOML file. Raises: SpaceError naming file and key."""
        name, file, where = find_space(name_or_path)
        return cls(name=name, **space_values(read_toml(file, where=where), where=where))

    def for_data(self, *, has_masks: bool) -> "Space":
        """The space without the ops that the data cannot serve: those that need defect masks where there are none.

        Raises: SpaceError where no op is left.
        """
        served = tuple((op, range_) for op, range_ in self.magnitudes if has_masks or "masks" not in get_op(op).needs)
        if not served:
            raise SpaceError(
                f"search space {self.name}: every op in it needs defect masks, and the data has none; give data with "
                "masks (an MVTec-style tree, or masks beside the images), or take another space"
            )
        return replace(self, magnitudes=served)

    def for_model(self, *, max_frames: int | None) -> "Space":
        """The space without the videos that are too long for a model; None: it takes any.

        Raises: SpaceError where none is left.
        """
        if max_frames is None or self.num_frames.high <= max_frames:
            return self
        if self.num_frames.low > max_frames:
            raise SpaceError(
                f"search space {self.name}: its videos have {self.num_frames.low} frames and more, but the model at "
                f"this size takes at most {max_frames}; take larger images, a larger preset, or another space"
            )
        return replace(self, num_frames=replace(self.num_frames, high=max_frames))

    @property
    def digest(self) -> str:
        """sha256 (hex) of what the space says; its name, comments and layout do not matter."""
        stated = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()

    def suggest(self, trial: optuna.trial.BaseTrial) -> Policy:
        """The policy that the trial's sampler suggests."""
        return self._settled(self._define(lambda name, distribution: _ask_trial(trial, name, distribution)))

    def random_policy(self, seed: int) -> Policy:
        """A policy drawn at random, every parameter evenly over its range."""
        chance = random.Random(seed)
        return self._settled(self._define(lambda _, distribution: _ask_chance(chance, distribution)))

    def decode(self, params: Mapping[str, Any]) -> Policy:
        """The policy that these parameters state; no parameters state image-only training.

        Raises: SpaceError where one is missing, left over, or outside its bounds.
        """
        return self._settled(self._define_by(params, used={})) if params else Policy.image_only()

    def encode(self, policy: Policy) -> dict[str, Any]:
        """Parameters that `decode` to this policy, up to what its canonical form leaves out.

        Image-only training has none. (Optuna's intersection search space over trials becomes empty where one has no
        parameters: keep image-only out of a study that a relative sampler reads.)
        Raises: SpaceError where the policy lies outside the space.
        """
        if policy.is_image_only:
            return {}
        for form in (policy, policy.canonical()):
            params = self._params(form)
            if params is not None:
                return params
        raise SpaceError(f"the policy must lie in the search space {self.name}, got: {policy.describe()}")

    def contains(self, policy: Policy) -> bool:
        """Whether the space holds this policy; image-only training is in every space."""
        return policy.is_image_only or any(self._params(form) is not None for form in (policy, policy.canonical()))

    def distributions(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """The Optuna distribution of each of these parameters, for `optuna.trial.create_trial` and `enqueue_trial`."""
        used: dict[str, BaseDistribution] = {}
        if params:
            self._define_by(params, used=used)
        return used

    def _define(self, ask: Ask) -> Policy:
        """The policy as the answers state it, not yet canonical. Asks in a fixed order, each name once."""
        num_frames = ask("num_frames", IntDistribution(self.num_frames.low, self.num_frames.high))
        kind = ask("markov_order", CategoricalDistribution(self.markov_order.options))
        markov_order = 1 if kind == "chain" else num_frames - 1
        if kind == "any":
            fraction = ask("markov_fraction", FloatDistribution(0.0, 1.0))
            markov_order = min(1 + int(fraction * (num_frames - 1)), num_frames - 1)
        randomness = "fresh"
        if markov_order == num_frames - 1:
            randomness = ask("randomness", CategoricalDistribution(self.randomness.options))
        weight = _ask_number(ask, "frame_loss_weight", self.frame_loss_weight)
        until = _ask_number(ask, "frame_loss_until", self.frame_loss_until)
        num_layers = ask("num_layers", IntDistribution(self.num_layers.low, self.num_layers.high))
        return Policy(
            num_frames=num_frames,
            markov_order=markov_order,
            randomness=randomness,
            frame_loss_weight=weight,
            frame_loss_until=until,
            layers=tuple(self._define_layer(ask, slot=slot, num_frames=num_frames) for slot in range(num_layers)),
        )

    def _define_layer(self, ask: Ask, *, slot: int, num_frames: int) -> Layer:
        op = ask(f"layer{slot}_op", CategoricalDistribution(tuple(name for name, _ in self.magnitudes)))
        share = ask(f"layer{slot}_magnitude", FloatDistribution(0.0, 1.0))
        return Layer(
            op=op,
            magnitude=dict(self.magnitudes)[op].at(share),
            curve=ask(f"layer{slot}_curve", CategoricalDistribution(self.curve.options)),
            frames=_active(
                ask(f"layer{slot}_active_frames", CategoricalDistribution(self.active_frames.options)),
                num_frames=num_frames,
            ),
            probability=_ask_number(ask, f"layer{slot}_probability", self.probability),
        )

    def _define_by(self, params: Mapping[str, Any], *, used: dict[str, BaseDistribution]) -> Policy:
        """The policy of these parameters; notes in `used` what was asked."""

        def ask(name: str, distribution: BaseDistribution) -> Any:
            if name not in params:
                raise SpaceError(f"search space {self.name}: the parameter {name} is missing from {sorted(params)}")
            used[name] = distribution
            return _checked_value(params[name], distribution, at=f"search space {self.name}: parameter {name}")

        policy = self._define(ask)
        left_over = sorted(set(params) - set(used))
        if left_over:
            raise SpaceError(
                f"search space {self.name}: the parameter {left_over[0]!r} is not asked here."
                f"{nearest(left_over[0], used)}"
            )
        return policy

    def _settled(self, policy: Policy) -> Policy:
        """The canonical form where the space holds it; else (merged layers may exceed its bounds) the policy itself."""
        canonical = self._rounded_canonical(policy)
        return canonical if canonical is not None and self._params(canonical) is not None else policy

    def _rounded_canonical(self, policy: Policy) -> Policy | None:
        """The canonical form, merged magnitudes rounded like all others; None where one exceeds its range."""
        canonical = policy.canonical()
        ranges = dict(self.magnitudes)
        if any(layer.magnitude > ranges[layer.op].high for layer in canonical.layers):
            return None
        layers = (replace(layer, magnitude=ranges[layer.op].rounded(layer.magnitude)) for layer in canonical.layers)
        return replace(canonical, layers=tuple(layers))

    def _params(self, policy: Policy) -> dict[str, Any] | None:
        """Parameters whose policy, or its canonical form, is this one; None where there are none."""
        policy = replace(policy, provenance=None)
        # The canonical form leaves out the order and the randomness where they change nothing: any that fit will do.
        for kind in self.markov_order.options:
            for order in dict.fromkeys((policy.markov_order, 1, policy.num_frames - 1)):
                for randomness in dict.fromkeys((policy.randomness, *self.randomness.options)):
                    answers = self._answers(policy, kind=kind, markov_order=order, randomness=randomness)
                    params: dict[str, Any] = {}
                    found = self._try(answers, params=params)
                    if found is not None and policy in (found, self._rounded_canonical(found)):
                        return params
        return None

    def _try(self, answers: Mapping[str, Any], *, params: dict[str, Any]) -> Policy | None:
        """The policy of these answers, those that were asked noted in `params`; None where one does not fit."""

        def ask(name: str, distribution: BaseDistribution) -> Any:
            params[name] = _checked_value(answers.get(name), distribution, at=name)
            return params[name]

        try:
            return self._define(ask)
        except SpaceError:
            return None

    def _answers(self, policy: Policy, *, kind: object, markov_order: int, randomness: object) -> dict[str, Any]:
        """What would have to be answered to get this policy; some may lie outside their bounds or be superfluous."""
        answers: dict[str, Any] = {
            "num_frames": policy.num_frames,
            "markov_order": kind,
            "markov_fraction": (markov_order - 0.5) / max(1, policy.num_frames - 1),
            "randomness": randomness,
            "frame_loss_weight": policy.frame_loss_weight,
            "frame_loss_until": policy.frame_loss_until,
            "num_layers": len(policy.layers),
        }
        ranges = dict(self.magnitudes)
        for slot, layer in enumerate(policy.layers):
            kinds = self.active_frames.options
            fits = [kind for kind in kinds if _active(kind, num_frames=policy.num_frames) == layer.frames]
            # The canonical form leaves out the curve where it takes no value between 0 and 1.
            curve_matters = layer.frames[0] < layer.frames[1] or layer.curve in self.curve.options
            share = ranges[layer.op].share(layer.magnitude) if layer.op in ranges else 0.0
            answers |= {
                f"layer{slot}_op": layer.op,
                f"layer{slot}_magnitude": share,
                f"layer{slot}_curve": layer.curve if curve_matters else self.curve.options[0],
                f"layer{slot}_active_frames": fits[0] if fits else None,
                f"layer{slot}_probability": layer.probability,
            }
        return answers


def _active(kind: object, *, num_frames: int) -> tuple[int, int]:
    """The active frames: all pseudo frames, their more corrupted half, or the other half (full up to its start)."""
    last = num_frames - 1
    if kind == "early":
        return 1, max(1, last // 2)
    return (last // 2 + 1, last) if kind == "late" else (1, last)


def _ask_number(ask: Ask, name: str, allowed: FloatRange | Choice) -> float:
    if isinstance(allowed, Choice):
        return float(ask(name, CategoricalDistribution(allowed.options)))
    return allowed.rounded(ask(name, FloatDistribution(allowed.low, allowed.high, log=allowed.log)))


def _ask_trial(trial: optuna.trial.BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _ask_chance(chance: random.Random, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return chance.choice(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return chance.randint(distribution.low, distribution.high)
    assert isinstance(distribution, FloatDistribution)
    return FloatRange(distribution.low, distribution.high, log=distribution.log).at(chance.random())


def _checked_value(value: object, distribution: BaseDistribution, *, at: str) -> Any:
    """The value, if it is of the distribution's type and within it."""
    if isinstance(distribution, CategoricalDistribution):
        fits = value in distribution.choices and not isinstance(value, bool)
    elif isinstance(distribution, IntDistribution):
        fits = type(value) is int and distribution.low <= value <= distribution.high
    else:
        assert isinstance(distribution, FloatDistribution)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = number and distribution.low <= value <= distribution.high  # type: ignore[operator]
    if not fits:
        raise SpaceError(f"{at} must lie in {distribution}, got {value!r}")
    return value
