import pytest
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.policy.ops.heat import NOISE_PER_BLUR, heat_step
from autopv.testing.op_suite import OpSuite, structured_images


class TestHeat(OpSuite):
    op = "heat"


@pytest.mark.parametrize("shape_BCHW", [(2, 3, 64, 64), (2, 1, 33, 48)])
def test_without_its_noise_heat_is_gaussian_blur(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    silence = {"spectrum_BCHW": torch.zeros(shape_BCHW)}
    heated_BCHW = step("heat", images_BCHW, source=0.03, target=0.1, draw=silence)
    torch.testing.assert_close(heated_BCHW, step("gaussian_blur", images_BCHW, source=0.03, target=0.1))


@pytest.mark.parametrize("side_px", [16, 64, 128])
def test_its_noise_is_white_stated_at_64_px_and_grows_with_the_blur(side_px: int) -> None:
    images_BCHW = torch.full((16 * 128 // side_px, 1, side_px, side_px), 0.5)
    for sigma in (0.1, 0.4):
        noise_BCHW = step("heat", images_BCHW, target=sigma) - 0.5
        expected = NOISE_PER_BLUR * sigma * side_px / 64
        assert float(noise_BCHW.std()) == pytest.approx(expected, rel=0.03)
        between_neighbours = float((noise_BCHW[..., 1:] * noise_BCHW[..., :-1]).mean()) / expected**2
        assert between_neighbours == pytest.approx(0, abs=0.02)


def test_two_steps_damp_like_one_and_leave_white_noise_at_every_frequency() -> None:
    first, second, whole = (
        heat_step(24, 40, source=source, target=target, dtype=torch.float64, device=CPU)
        for source, target in ((0.0, 0.02), (0.02, 0.3), (0.0, 0.3))
    )
    torch.testing.assert_close(second[0] * first[0], whole[0])
    variance_HW = (second[0] * first[1]).square() + second[1].square()
    torch.testing.assert_close(variance_HW, whole[1].square())
    torch.testing.assert_close(whole[1], torch.full_like(whole[1], NOISE_PER_BLUR * 0.3 * 24 / 64))


def test_one_heat_draw_keeps_its_noise_and_scales_it() -> None:
    images_BCHW = torch.full((2, 3, 16, 24), 0.5)
    small_BCHW, large_BCHW = (step("heat", images_BCHW, target=sigma) - 0.5 for sigma in (0.1, 0.3))
    torch.testing.assert_close(large_BCHW, 3 * small_BCHW, atol=1e-6, rtol=1e-4)


def test_a_chain_of_small_steps_ends_with_the_noise_of_the_last() -> None:
    images_BCHW = torch.full((64, 1, 32, 32), 0.5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        draw = get_op("heat").draw((64, 1, 32, 32), generator=generator, device=CPU)
        images_BCHW = step("heat", images_BCHW, source=0.05 * i, target=0.05 * (i + 1), draw=draw)
    assert float(images_BCHW.std()) == pytest.approx(NOISE_PER_BLUR * 0.3 / 2, rel=0.03)
