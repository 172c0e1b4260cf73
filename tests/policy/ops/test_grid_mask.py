from itertools import pairwise

import pytest
import torch
from op_cases import CPU, step
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.policy.ops.base import Draw
from autopv.policy.ops.grid_mask import PERIODS
from autopv.testing.op_suite import OpSuite, structured_images


class TestGridMask(OpSuite):
    op = "grid_mask"


def removed_mask(shape_BCHW: tuple[int, int, int, int], *, area: float, draw: Draw | None = None) -> Tensor:
    """The covered share of every pixel: a zero-mean image is filled with 0."""
    checkers_HW = torch.ones(shape_BCHW[-2:], dtype=torch.float64)
    checkers_HW[::2] *= -1
    images_BCHW = checkers_HW.expand(shape_BCHW)
    return 1 - step("grid_mask", images_BCHW, target=area, draw=draw) / images_BCHW


def test_squares_lie_where_the_draw_says() -> None:
    draw = {"period_B": torch.tensor([0.5]), "row_B": torch.tensor([0.25]), "column_B": torch.tensor([0.0])}
    mask_HW = removed_mask((1, 1, 8, 16), area=0.25, draw=draw)[0, 0]  # cells of 4 pixels, squares of 2
    expected_HW = torch.outer(torch.tensor([1.0, 1, 0, 0] * 2), torch.tensor([0.0, 1, 1, 0] * 4)).double()
    torch.testing.assert_close(mask_HW, expected_HW)


@pytest.mark.parametrize("area", [0.005, 0.3, 0.9])
@pytest.mark.parametrize("shape_BCHW", [(64, 1, 16, 16), (64, 1, 64, 32)])
def test_whole_cells_lose_exactly_their_area_wherever_the_grid_lies(
    shape_BCHW: tuple[int, int, int, int], area: float
) -> None:
    draw = dict(get_op("grid_mask").draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU))
    draw["period_B"] = torch.tensor([1 / 8, 1 / 4, 1 / 2, 1.0]).repeat(16)
    mask_BCHW = removed_mask(shape_BCHW, area=area, draw=draw)
    torch.testing.assert_close(
        mask_BCHW.mean(dim=(1, 2, 3)), torch.full((64,), area, dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert float(mask_BCHW.min()) >= 0
    assert float(mask_BCHW.max()) <= 1


def test_any_grid_loses_the_area_on_average_and_every_pixel_alike() -> None:
    mask_BCHW = removed_mask((8192, 1, 8, 12), area=0.4)
    standard_error_HW = mask_BCHW.std(dim=0)[0] / 8192**0.5
    assert bool(((mask_BCHW.mean(dim=0)[0] - 0.4).abs() < 5 * standard_error_HW).all())


def test_one_draw_grows_its_squares() -> None:
    masks = [removed_mask((64, 1, 33, 20), area=area) for area in (0.01, 0.1, 0.4, 0.9)]
    for smaller_BCHW, larger_BCHW in pairwise(masks):
        assert bool((larger_BCHW >= smaller_BCHW - 1e-12).all())


def test_a_step_takes_the_missing_share_and_fills_with_the_mean_colour() -> None:
    images_BCHW = structured_images((4, 3, 64, 64), seed=0).double()
    stepped_BCHW = step("grid_mask", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("grid_mask", images_BCHW, target=0.5))
    filled_BCHW = step("grid_mask", images_BCHW, target=0.9) - images_BCHW.mean(dim=(-2, -1), keepdim=True)
    assert float((filled_BCHW.abs() < 1e-6).float().mean()) > 0.5


def test_periods_span_their_bounds() -> None:
    draw = get_op("grid_mask").draw((4096, 1, 8, 8), generator=torch.Generator().manual_seed(0), device=CPU)
    shortest, longest = PERIODS
    assert float(draw["period_B"].min()) == pytest.approx(shortest, rel=0.01)
    assert float(draw["period_B"].max()) == pytest.approx(longest, rel=0.01)
    assert float(draw["period_B"].median()) == pytest.approx((shortest * longest) ** 0.5, rel=0.05)
