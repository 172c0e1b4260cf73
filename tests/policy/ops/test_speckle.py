from itertools import pairwise

import pytest
import torch
from op_cases import CPU, step

from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestSpeckle(OpSuite):
    op = "speckle"


@pytest.mark.parametrize(("side_px", "scale"), [(16, 0.25), (64, 1.0), (128, 2.0)])
def test_speckle_is_a_factor_stated_at_64_px(side_px: int, scale: float) -> None:
    images_BCHW = structured_images((8, 2, side_px, side_px), seed=0).double()
    factor_BCHW = step("speckle", images_BCHW, target=0.4)[images_BCHW > 0] / images_BCHW[images_BCHW > 0]
    assert float(factor_BCHW.mean()) == pytest.approx(1, abs=0.02)
    assert float(factor_BCHW.std()) == pytest.approx(0.4 * scale, rel=0.05)


def test_black_stays_black_and_one_speckle_draw_grows_along_itself() -> None:
    images_BCHW = structured_images((2, 3, 64, 64), seed=0)
    images_BCHW[..., :10] = 0
    small_BCHW, large_BCHW = (step("speckle", images_BCHW, target=sigma) for sigma in (0.2, 0.6))
    assert float(large_BCHW[..., :10].abs().max()) == 0
    torch.testing.assert_close(large_BCHW - images_BCHW, 3 * (small_BCHW - images_BCHW))


@pytest.mark.parametrize("side_px", [16, 64])
def test_mean_and_second_moment_are_the_same_after_one_step_and_after_many(side_px: int) -> None:
    sigma = 0.9
    num_images = 64 * (64 // side_px) ** 2
    images_BCHW = torch.ones(num_images, 1, side_px, side_px, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    levels = (0.0, 0.2, 0.5, sigma)
    for source, target in pairwise(levels):
        draw = get_op("speckle").draw((num_images, 1, side_px, side_px), generator=generator, device=CPU)
        images_BCHW = step("speckle", images_BCHW, source=source, target=target, draw=draw)
    assert float(images_BCHW.mean()) == pytest.approx(1, abs=0.01)
    assert float(images_BCHW.square().mean()) == pytest.approx(1 + (sigma * side_px / 64) ** 2, rel=0.02)


def test_a_video_of_speckle_is_as_bright_as_the_image() -> None:
    images_BCHW = structured_images((64, 1, 16, 16), seed=0) * 0.5
    policy = Policy(num_frames=5, markov_order=1, layers=(Layer(op="speckle", magnitude=0.8, frames=(1, 4)),))
    frames_BTCHW = policy.render(images_BCHW, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frames_BTCHW[:, 0].mean(), images_BCHW.mean(), atol=5e-3, rtol=0)
