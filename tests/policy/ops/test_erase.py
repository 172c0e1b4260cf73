import pytest
import torch
from op_cases import step
from torch import Tensor

from autopv.testing.op_suite import OpSuite, structured_images


class TestErase(OpSuite):
    op = "erase"


@pytest.mark.parametrize("area", [0.005, 0.3, 0.9])
@pytest.mark.parametrize("shape_BCHW", [(64, 1, 8, 8), (64, 1, 33, 64)])
def test_erase_covers_exactly_its_area(shape_BCHW: tuple[int, int, int, int], area: float) -> None:
    mask_BCHW = erased_mask(shape_BCHW, area=area)
    torch.testing.assert_close(mask_BCHW.mean(dim=(1, 2, 3)), torch.full((64,), area, dtype=torch.float64))
    assert float(mask_BCHW.min()) >= 0
    assert float(mask_BCHW.max()) <= 1


def test_an_erase_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("erase", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("erase", images_BCHW, target=0.5))


def test_one_erase_draw_grows_and_boxes_lie_everywhere() -> None:
    small_BCHW, large_BCHW = (erased_mask((256, 1, 16, 16), area=area) for area in (0.1, 0.5))
    assert bool((large_BCHW >= small_BCHW - 1e-12).all())
    assert bool((small_BCHW.amax(dim=0) > 0).all())


def erased_mask(shape_BCHW: tuple[int, int, int, int], *, area: float) -> Tensor:
    """The covered share of every pixel: one op call on two images that differ by 1 in one pixel's place only.

    Filling with the mean is linear in the image, so a zero-mean image reads the mask off.
    """
    checkers_HW = torch.ones(shape_BCHW[-2:], dtype=torch.float64)
    checkers_HW[::2] *= -1
    images_BCHW = checkers_HW.expand(shape_BCHW)
    images_BCHW = images_BCHW - images_BCHW.mean(dim=(-2, -1), keepdim=True)
    return 1 - step("erase", images_BCHW, target=area) / images_BCHW


def test_erase_fills_with_the_mean_colour() -> None:
    images_BCHW = structured_images((8, 3, 16, 16), seed=0)
    erased_BCHW = step("erase", images_BCHW, target=0.9)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True).expand_as(images_BCHW)
    filled_BCHW = (erased_BCHW - mean_BC11).abs() < 1e-6
    assert float(filled_BCHW.float().mean()) > 0.75
