"""What every corruption promises, and the registry that finds one by its short name.

An op is stateless. It *draws* its random parameters apart from *applying* them, so that a video can be replayed
exactly, and it *steps*: given a frame that already carries it at magnitude `source`, it returns that frame at
magnitude `target`. `source` 0 is the image itself, so a step from 0 is the whole corruption.

Nothing in an op waits for the device (`.item()`, branches on values, boolean indexing): a GPU is kept busy, and
torch.compile sees one graph.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from autopv.errors import PolicyError, nearest

Draw = Mapping[str, Tensor]
"""Named tensors: what an op drew at random, and what it prepared."""

GROUPS = ("signal", "blur", "geometry", "missing", "photometric", "mixture", "defect")
NEEDS = ("masks", "donors")
REFERENCE_SIDE_PX = 64
"""White noise of standard deviation s at side N looks like s / f after shrinking by f: so noise is stated at this
side and scaled by side / 64, and one magnitude hides the same structures at every size."""


class Op(ABC):
    """One corruption: its vocabulary in policies, its bounds and promises, and its two verbs, `draw` and `corrupt`.

    `autopv.testing.op_suite.OpSuite` holds the tests that every op must pass; a new op subclasses it in two lines.
    """

    name: ClassVar[str]
    magnitude_name: ClassVar[str]
    """The one key of the policy's `magnitude` object."""
    unit: ClassVar[str]
    low: ClassVar[float]
    """Smallest magnitude a policy may state other than 0 (which is the identity)."""
    high: ClassVar[float]
    deterministic: ClassVar[bool]
    """True where the result depends on the image alone."""
    exact: ClassVar[bool]
    """True where stepping 0 -> s -> t gives the distribution of stepping 0 -> t (before the output is clamped)."""
    monotone: ClassVar[bool]
    """True where the mean distance from the image grows with the magnitude."""
    group: ClassVar[str]
    """What kind of corruption it is, one of GROUPS."""
    built_on: ClassVar[str]
    """The library that does the work, and why that one: "torch: ..." where it is our own."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """What it needs beside the image, of NEEDS: defect masks, donor images."""

    @abstractmethod
    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Random parameters for one step of one batch, independent of any magnitude; empty for a deterministic op."""

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """What every step of a batch of videos needs and chance has no part in, made once from the images themselves.

        `corrupt` finds it among the draw's entries. An op gets the masks_BHW (bool) and donors_NCHW that it needs.
        """
        del images_BCHW, masks_BHW, donors_NCHW
        return {}

    @abstractmethod
    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images taken from magnitude `source` to `target`, 0 <= source <= target, not clamped.

        images_BCHW are float32 or float64 and are not written to; a draw's tensors are float32 (or integers) and on
        their device. Returns the images themselves where both magnitudes are equal.
        """

    def merged(self, first: float, second: float, *, constant: bool) -> float | None:
        """The one magnitude that equals `first` followed by `second` on every frame, or None where there is none.

        `constant` says that the curve takes no value between 0 and 1.
        """
        del first, second, constant
        return None


class DeterministicOp(Op):
    """An op that draws nothing: the magnitude, and what it prepares from the images, say it all."""

    deterministic = True

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Nothing."""
        del shape_BCHW, generator, device
        return {}


class VariancesAdd(Op):
    """An op two of which, one after the other, are one of the summed variance."""

    def merged(self, first: float, second: float, *, constant: bool) -> float | None:
        """The root of the summed squares, whatever the curve: it scales both standard deviations alike."""
        del constant
        return math.hypot(first, second)


class KeptSharesMultiply(Op):
    """An op two of which, one after the other, are one that keeps the product of what each keeps."""

    def merged(self, first: float, second: float, *, constant: bool) -> float | None:
        """The loss of both, or None along a curve, which scales the lost shares instead of the kept ones."""
        return 1 - (1 - first) * (1 - second) if constant else None


OpClass = TypeVar("OpClass", bound=type[Op])
_REGISTRY: dict[str, Op] = {}


def register(op_class: OpClass) -> OpClass:
    """The class itself, after one instance of it was registered under its name (a class decorator).

    Raises: PolicyError where the name is taken or malformed, or the bounds are not 0 < low < high.
    """
    op = op_class()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", op.name):
        raise PolicyError(f"an op's name must be 1 to 40 of a-z, 0-9 and _, a letter first; got {op.name!r}")
    if op.name in _REGISTRY:
        taken = type(_REGISTRY[op.name]).__qualname__
        raise PolicyError(f"the op name {op.name!r} is already registered by {taken}; give yours another name")
    if not 0 < op.low < op.high < math.inf:
        raise PolicyError(f"op {op.name!r}: 0 < low < high must hold, but got low={op.low}, high={op.high}")
    if op.group not in GROUPS or not op.needs <= set(NEEDS):
        raise PolicyError(
            f"op {op.name!r}: the group must be one of {', '.join(GROUPS)} and its needs among {', '.join(NEEDS)}, "
            f"but got group={op.group!r}, needs={sorted(op.needs)}"
        )
    _REGISTRY[op.name] = op
    return op_class


def get_op(name: str) -> Op:
    """The op of that name. Raises: PolicyError naming the nearest known op."""
    op = _REGISTRY.get(name)
    if op is None:
        raise PolicyError(f"there is no op {name[:60]!r}.{nearest(name[:60], _REGISTRY)}")
    return op


def op_names() -> tuple[str, ...]:
    """Every registered op's name, sorted."""
    return tuple(sorted(_REGISTRY))


def variance_step(source: float, target: float) -> float:
    """The standard deviation that takes `source` to `target` where independent variances add."""
    return math.sqrt((target - source) * (target + source))


def shorter_side(images_BCHW: Tensor) -> int:
    """The side in pixels that lengths given as fractions refer to."""
    return min(images_BCHW.shape[-2:])


def survival_step(source: float, target: float) -> float:
    """The share of what survives at `source` that a step to `target` takes away, where lost shares are stated."""
    return (target - source) / (1 - source)
