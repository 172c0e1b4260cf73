import pytest
import torch
from op_cases import step
from torch import Tensor

from autopv.testing.op_suite import OpSuite


class TestStain(OpSuite):
    op = "stain"


def stained(shape_BHW: tuple[int, int, int], *, area: float) -> Tensor:
    """Which pixels of each image a stain darkens by half of its inside's absorption or more."""
    absorbed_BHW = 1 - step("stain", torch.ones(shape_BHW[0], 1, *shape_BHW[1:]), target=area)[:, 0]
    inside_B = absorbed_BHW.flatten(start_dim=1).amax(dim=1) / 1.6  # the rim absorbs that much more
    return absorbed_BHW > 0.8 * inside_B[:, None, None]  # on the edge, half covered, the rim counts in full


@pytest.mark.parametrize("area", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("shape_BHW", [(64, 64, 64), (64, 33, 64)])
def test_every_stain_has_nearly_its_area_wherever_it_lies(shape_BHW: tuple[int, int, int], area: float) -> None:
    share_B = stained(shape_BHW, area=area).float().mean(dim=(1, 2))
    assert float((share_B - area).abs().max()) < 0.03
    assert float(share_B.mean()) == pytest.approx(area, abs=0.01)


def test_one_stain_draw_spreads_and_stains_lie_everywhere() -> None:
    small_BHW, large_BHW = (stained((256, 32, 32), area=area) for area in (0.05, 0.4))
    assert not bool((small_BHW & ~large_BHW).any())
    assert bool(small_BHW.any(dim=0).all())


def test_a_stain_absorbs_a_share_of_the_light_and_its_rim_more() -> None:
    white_BCHW = torch.ones(32, 3, 64, 64)
    kept_BCHW = step("stain", white_BCHW, target=0.3)
    torch.testing.assert_close(step("stain", 0.5 * white_BCHW, target=0.3), 0.5 * kept_BCHW)
    assert float(kept_BCHW.max()) == 1
    absorbed_BC = (1 - kept_BCHW).amax(dim=(2, 3))
    assert float(absorbed_BC.min()) > 0.2 * 0.4
    assert float(absorbed_BC.max()) <= 0.5 * 1.6 + 1e-6


def test_a_stain_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW = torch.ones(8, 1, 16, 16)
    torch.testing.assert_close(
        step("stain", images_BCHW, source=0.2, target=0.6), step("stain", images_BCHW, target=0.5)
    )
