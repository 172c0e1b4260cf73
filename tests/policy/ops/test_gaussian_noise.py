import pytest
import torch
from op_cases import step

from autopv.testing.op_suite import OpSuite


class TestGaussianNoise(OpSuite):
    op = "gaussian_noise"


@pytest.mark.parametrize(("side", "expected"), [(32, 0.1), (64, 0.2), (128, 0.4)])
def test_noise_is_stated_at_64_px_and_scales_with_the_side(side: int, expected: float) -> None:
    noisy_BCHW = step("gaussian_noise", torch.zeros(4, 1, side, side), target=0.2)
    assert float(noisy_BCHW.std()) == pytest.approx(expected, rel=0.05)
    assert float(noisy_BCHW.mean()) == pytest.approx(0, abs=5 * expected / (2 * side))


def test_noise_hides_the_same_structures_at_every_size() -> None:
    noise_BCHW = step("gaussian_noise", torch.zeros(16, 1, 128, 128), target=0.2)
    assert float(torch.nn.functional.avg_pool2d(noise_BCHW, 2).std()) == pytest.approx(0.2, rel=0.05)


def test_noise_steps_add_variances() -> None:
    noisy_BCHW = step("gaussian_noise", torch.zeros(8, 1, 64, 64), source=0.3, target=0.5)
    assert float(noisy_BCHW.std()) == pytest.approx(0.4, rel=0.02)
