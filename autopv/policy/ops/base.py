"""What every corruption promises, and the registry that finds one by its short name.

An op is stateless. It *draws* its random parameters apart from *applying* them, so that a video can be replayed
exactly, and it *steps*: given a frame that already carries it at magnitude `source`, it returns that frame at
magnitude `target`. `source` 0 is the image itself, so a step from 0 is the whole corruption.
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

    @abstractmethod
    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Random parameters for one step of one batch, independent of any magnitude; empty for a deterministic op."""

    @abstractmethod
    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images taken from magnitude `source` to `target`, 0 <= source <= target, not clamped.

        The images themselves where both are equal.
        """

    def merged(self, first: float, second: float, *, constant: bool) -> float | None:
        """The one magnitude that equals `first` followed by `second` on every frame, or None where there is none.

        `constant` says that the curve takes no value between 0 and 1.
        """
        del first, second, constant
        return None


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


def normal_field(shape: tuple[int, ...], *, generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal values drawn on `device`, by a generator of its own there that is seeded from `generator`.

    Drawing on the CPU and copying would cost more than the rest of the rendering; so the values repeat per kind of
    device, while small parameters, drawn on the CPU, are the same everywhere.
    """
    if device.type == "cpu":
        return torch.randn(shape, generator=generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.randn(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
