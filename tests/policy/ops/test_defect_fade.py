import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, defect_masks, structured_images


class TestDefectFade(OpSuite):
    op = "defect_fade"
    least_change = 0.02  # only the defect, here a quarter of the image, changes


def faded(images_BCHW: Tensor, masks_BHW: Tensor, *, target: float, clean_BCHW: Tensor | None = None) -> Tensor:
    op = get_op("defect_fade")
    prepared = op.prepare(images_BCHW if clean_BCHW is None else clean_BCHW, masks_BHW=masks_BHW, donors_NCHW=None)
    return op.corrupt(images_BCHW, prepared, source=0.0, target=target)


@pytest.mark.parametrize("side", [16, 64])
def test_nothing_remains_of_the_defect_but_what_surrounds_it(side: int) -> None:
    images_BCHW = structured_images((7, 3, side, side), seed=0)
    masks_BHW = defect_masks((7, side, side))
    defect_BCHW = torch.where(masks_BHW[:, None], 5.0, images_BCHW)
    healed_BCHW = faded(defect_BCHW, masks_BHW, target=1.0)
    torch.testing.assert_close(healed_BCHW, faded(images_BCHW, masks_BHW, target=1.0), atol=1e-5, rtol=0)
    half_BCHW = faded(defect_BCHW, masks_BHW, target=0.5)
    inside_BCHW = masks_BHW[:, None].expand_as(images_BCHW)
    torch.testing.assert_close(half_BCHW[inside_BCHW], 2.5 + 0.5 * healed_BCHW[inside_BCHW])


def test_images_without_a_defect_and_pixels_away_from_it_stay_bit_for_bit() -> None:
    images_BCHW, masks_BHW = structured_images((7, 3, 48, 64), seed=0), defect_masks((7, 48, 64))
    healed_BCHW = faded(images_BCHW, masks_BHW, target=1.0)
    assert torch.equal(healed_BCHW[6], images_BCHW[6])
    # The margin and the feather reach a tenth of the side at most.
    far_B1HW = F.max_pool2d(masks_BHW[:, None].float(), 2 * 5 + 1, stride=1, padding=5) == 0
    far_BCHW = far_B1HW.expand_as(images_BCHW)
    assert torch.equal(healed_BCHW[far_BCHW], images_BCHW[far_BCHW])


def test_the_background_is_healed_from_the_clean_image_whatever_else_was_done_to_the_frame() -> None:
    clean_BCHW, masks_BHW = structured_images((4, 1, 32, 32), seed=0), defect_masks((4, 32, 32))
    frame_BCHW = clean_BCHW + 0.3
    healed_BCHW = faded(frame_BCHW, masks_BHW, target=1.0, clean_BCHW=clean_BCHW)
    expected_BCHW = faded(clean_BCHW, masks_BHW, target=1.0)
    torch.testing.assert_close(healed_BCHW[masks_BHW[:, None]], expected_BCHW[masks_BHW[:, None]])


@pytest.mark.parametrize("defects", ["everywhere", "nowhere"])
def test_masks_of_all_or_nothing_leave_finite_images(defects: str) -> None:
    images_BCHW = structured_images((2, 3, 8, 40), seed=0)
    masks_BHW = torch.full((2, 8, 40), defects == "everywhere")
    healed_BCHW = faded(images_BCHW, masks_BHW, target=1.0)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    expected_BCHW = mean_BC11.expand_as(images_BCHW) if defects == "everywhere" else images_BCHW
    torch.testing.assert_close(healed_BCHW, expected_BCHW)
