import pytest
import torch
from op_cases import step
from torch import Tensor

from autopv.policy.ops.corrosion import OPACITY, RUST_RGB
from autopv.testing.op_suite import OpSuite, structured_images


class TestCorrosion(OpSuite):
    op = "corrosion"


def covered(shape_BHW: tuple[int, int, int], *, area: float) -> Tensor:
    """How much of each pixel rust covers: of two surfaces, it hides the difference."""
    dark_B1HW = torch.zeros(shape_BHW[0], 1, *shape_BHW[1:], dtype=torch.float64)
    hidden_B1HW = 1 - (step("corrosion", dark_B1HW + 1, target=area) - step("corrosion", dark_B1HW, target=area))
    return hidden_B1HW[:, 0] / OPACITY


@pytest.mark.parametrize("area", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("shape_BHW", [(64, 64, 64), (64, 33, 64)])
def test_rust_covers_nearly_its_area_of_every_image(shape_BHW: tuple[int, int, int], area: float) -> None:
    share_B = (covered(shape_BHW, area=area) > 0.5).double().mean(dim=(1, 2))
    assert float((share_B - area).abs().max()) < 0.03
    assert float(share_B.mean()) == pytest.approx(area, abs=0.01)


def test_one_corrosion_draw_grows() -> None:
    small_BHW, middle_BHW, large_BHW = (covered((64, 32, 32), area=area) for area in (0.02, 0.2, 0.8))
    assert bool((middle_BHW >= small_BHW - 1e-9).all())
    assert bool((large_BHW >= middle_BHW - 1e-9).all())


def test_rust_is_brown_where_there_are_three_channels_and_rough_everywhere() -> None:
    images_BCHW = structured_images((8, 3, 64, 64), seed=0)
    rusty_BCHW = step("corrosion", images_BCHW, target=0.9)
    deep_BHW = covered((8, 64, 64), area=0.9) > 1 - 1e-9
    rust_BCHW = (rusty_BCHW - (1 - OPACITY) * images_BCHW) / OPACITY
    for channel in (1, 2):
        ratio = RUST_RGB[channel] / RUST_RGB[0]
        expected = rust_BCHW[:, 0][deep_BHW] * ratio
        torch.testing.assert_close(rust_BCHW[:, channel][deep_BHW], expected, atol=1e-5, rtol=0)
    assert float(rust_BCHW[:, 0][deep_BHW].std()) > 0.1


def test_a_corrosion_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("corrosion", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("corrosion", images_BCHW, target=0.5))
