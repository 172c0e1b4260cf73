import pytest
import torch
from op_cases import CPU
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestDonorPaste(OpSuite):
    op = "donor_paste"


def pasted(images_BCHW: Tensor, donors_NCHW: Tensor, *, target: float, source: float = 0.0) -> Tensor:
    op, shape_BCHW = get_op("donor_paste"), tuple(images_BCHW.shape)
    draw = op.draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    prepared = op.prepare(images_BCHW, masks_BHW=None, donors_NCHW=donors_NCHW)
    return op.corrupt(images_BCHW, {**draw, **prepared}, source=source, target=target)


@pytest.mark.parametrize("area", [0.005, 0.3, 0.9])
@pytest.mark.parametrize("shape_BCHW", [(64, 1, 8, 8), (64, 1, 33, 64)])
def test_exactly_its_area_comes_from_donors(shape_BCHW: tuple[int, int, int, int], area: float) -> None:
    images_BCHW = torch.zeros(shape_BCHW, dtype=torch.float64)
    mask_BCHW = pasted(images_BCHW, torch.ones_like(images_BCHW[:3]), target=area)
    torch.testing.assert_close(mask_BCHW.mean(dim=(1, 2, 3)), torch.full((64,), area, dtype=torch.float64))


def test_every_donor_gives_equally_often_and_at_its_own_place() -> None:
    places_HW = torch.linspace(0, 0.5, 64).view(8, 8)
    donors_NCHW = torch.arange(1.0, 6.0)[:, None, None, None] + places_HW
    result_BCHW = pasted(torch.zeros(5000, 1, 8, 8), donors_NCHW, target=0.9)
    centre_B = result_BCHW[:, 0, 4, 4] - places_HW[4, 4]  # a box of nine tenths always covers it
    for donor in range(1, 6):
        assert float(torch.isclose(centre_B, torch.tensor(float(donor))).float().mean()) == pytest.approx(0.2, abs=0.03)


def test_one_donor_paste_draw_grows_with_content_of_the_same_donor() -> None:
    images_BCHW = torch.full((128, 1, 16, 16), -1e6)  # no pixel that a box's edge cuts gets above 0
    donors_NCHW = structured_images((5, 1, 16, 16), seed=1)
    small_BCHW, large_BCHW = (pasted(images_BCHW, donors_NCHW, target=area) for area in (0.1, 0.5))
    assert bool((large_BCHW >= small_BCHW - 1).all())
    covered = small_BCHW >= 0
    torch.testing.assert_close(large_BCHW[covered], small_BCHW[covered])


def test_a_donor_paste_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW, donors_NCHW = (structured_images((8, 1, 16, 16), seed=seed) for seed in (0, 1))
    stepped_BCHW = pasted(images_BCHW, donors_NCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, pasted(images_BCHW, donors_NCHW, target=0.5))
