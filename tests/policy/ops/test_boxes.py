import pytest
import torch
from op_cases import CPU
from torch import Tensor

from autopv.policy.ops.boxes import box_masks, draw_boxes


def masks(shape_BCHW: tuple[int, int, int, int], *, area: float) -> Tensor:
    draw = draw_boxes(shape_BCHW[0], generator=torch.Generator().manual_seed(0), device=CPU)
    return box_masks(torch.zeros(shape_BCHW, dtype=torch.float64), draw, area=area)


@pytest.mark.parametrize("area", [0.005, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("shape_BCHW", [(64, 1, 8, 8), (64, 3, 33, 64)])
def test_a_box_covers_exactly_its_area(shape_BCHW: tuple[int, int, int, int], area: float) -> None:
    mask_B1HW = masks(shape_BCHW, area=area)
    torch.testing.assert_close(mask_B1HW.mean(dim=(1, 2, 3)), torch.full((64,), area, dtype=torch.float64))
    assert float(mask_B1HW.min()) >= 0
    assert float(mask_B1HW.max()) <= 1


def test_a_larger_box_contains_the_smaller_one_and_boxes_lie_everywhere() -> None:
    small_B1HW, large_B1HW = (masks((256, 1, 16, 16), area=area) for area in (0.1, 0.5))
    assert bool((large_B1HW >= small_B1HW - 1e-12).all())
    assert bool((small_B1HW.amax(dim=0) > 0).all())
