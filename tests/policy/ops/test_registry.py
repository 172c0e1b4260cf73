"""The registry of ops, and that every op in it is tested."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy.ops import Op, get_op, op_names, register
from autopv.policy.ops.base import Draw


@pytest.mark.parametrize("op", op_names())
def test_every_registered_op_is_under_the_suite(op: str) -> None:
    assert f'(OpSuite):\n    op = "{op}"' in (Path(__file__).parent / f"test_{op}.py").read_text()


class Nothing(Op):
    """An op that could be registered."""

    name = "contrast"
    magnitude_name = "amount"
    unit = "none"
    low = 0.1
    high = 1.0
    deterministic = exact = monotone = True
    group = "signal"
    built_on = "torch"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        return {}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        return images_BCHW


def test_registering_refuses_a_taken_name() -> None:
    with pytest.raises(PolicyError, match=r"'contrast' is already registered by Contrast"):
        register(Nothing)
    assert type(get_op("contrast")) is not Nothing


@pytest.mark.parametrize("name", ["", "Blur", "9lives", "a.b", "x" * 41])
def test_registering_refuses_malformed_names(name: str) -> None:
    with pytest.raises(PolicyError, match="an op's name must be"):
        register(type("Named", (Nothing,), {"name": name}))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_registering_refuses_bounds_out_of_order(low: float, high: float) -> None:
    with pytest.raises(PolicyError, match="low < high must hold"):
        register(type("Bounded", (Nothing,), {"name": "bounded", "low": low, "high": high}))


def test_an_unknown_op_is_met_with_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match="Did you mean 'gaussian_blur'"):
        get_op("gausian_blur")
