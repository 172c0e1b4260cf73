"""Every op keeps every promise of `OpSuite`."""

import pytest

from autopv.policy.ops import op_names
from autopv.testing.op_suite import OpSuite


class TestContrast(OpSuite):
    op = "contrast"


class TestErase(OpSuite):
    op = "erase"


class TestGaussianBlur(OpSuite):
    op = "gaussian_blur"


class TestGaussianNoise(OpSuite):
    op = "gaussian_noise"


class TestPixelate(OpSuite):
    op = "pixelate"


class TestRotate(OpSuite):
    op = "rotate"


@pytest.mark.parametrize("op", op_names())
def test_every_registered_op_is_under_the_suite(op: str) -> None:
    assert op in {suite.op for suite in OpSuite.__subclasses__()}
