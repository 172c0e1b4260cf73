import pytest
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestBrightness(OpSuite):
    op = "brightness"


def test_brightness_adds_one_offset_per_image_to_every_pixel_and_channel() -> None:
    images_BCHW = structured_images((3, 3, 16, 16), seed=0)
    brighter_BCHW = step("brightness", images_BCHW, target=0.2, draw={"offset_B": torch.tensor([1.5, -1.0, 0.0])})
    expected_B111 = torch.tensor([0.3, -0.2, 0.0])[:, None, None, None]
    torch.testing.assert_close(brighter_BCHW, images_BCHW + expected_B111)


def test_brightness_offsets_have_the_stated_spread() -> None:
    draw = get_op("brightness").draw((20_000, 1, 8, 8), generator=torch.Generator().manual_seed(0), device=CPU)
    assert float(draw["offset_B"].std()) == pytest.approx(1, rel=0.03)
    assert float(draw["offset_B"].mean()) == pytest.approx(0, abs=0.03)


def test_brightness_steps_add_variances() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("brightness", images_BCHW, source=0.3, target=0.5)
    torch.testing.assert_close(stepped_BCHW, step("brightness", images_BCHW, target=0.4))


def test_one_brightness_draw_moves_every_image_further_the_same_way() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    small_BCHW, large_BCHW = (step("brightness", images_BCHW, target=offset) - images_BCHW for offset in (0.1, 0.4))
    torch.testing.assert_close(large_BCHW, 4 * small_BCHW, atol=1e-5, rtol=0)
