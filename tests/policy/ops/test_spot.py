import pytest
import torch
from scipy import ndimage
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.base import survival_step
from autopv.policy.ops.spot import NUM_SPOTS, Spot
from autopv.testing.op_suite import OpSuite, structured_images

Shape = tuple[int, int, int, int]
APART_K2 = torch.tensor([[0.2, 0.2], [0.2, 0.8], [0.8, 0.2], [0.8, 0.8], [0.5, 0.5]])


class TestSpot(OpSuite):
    op = "spot"
    least_change = 0.015  # a tenth of the image


def spotted(images_BCHW: Tensor, *, target: float, source: float = 0.0, apart: bool = False) -> Tensor:
    """One step; apart: the spots' centres lie far from the borders and from one another."""
    batch, channels, height, width = images_BCHW.shape
    generator, device = torch.Generator().manual_seed(0), torch.device("cpu")
    draw = dict(Spot().draw((batch, channels, height, width), generator=generator, device=device))
    draw.update(Spot().prepare(images_BCHW, masks_BHW=None, donors_NCHW=None))
    if apart:
        draw["centre_BK2"] = APART_K2.expand(batch, NUM_SPOTS, 2)
    return Spot().corrupt(images_BCHW, draw, source=source, target=target)


def coverage(shape_BCHW: Shape, *, area: float, apart: bool = False) -> Tensor:
    """The covered share of every pixel: on black images spots are as bright as the least contrast."""
    return spotted(torch.zeros(shape_BCHW), target=area, apart=apart) / strokes.MIN_CONTRAST


@pytest.mark.parametrize("area", [0.002, 0.01, 0.04])
@pytest.mark.parametrize("shape_BCHW", [(256, 1, 64, 64), (256, 1, 40, 72)])
def test_spots_cover_their_area(shape_BCHW: Shape, area: float) -> None:
    covered_B = coverage(shape_BCHW, area=area, apart=True).mean(dim=(1, 2, 3))
    assert float(covered_B.mean()) == pytest.approx(area, rel=0.04)
    assert float(covered_B.std()) < 0.2 * area


def test_spots_smaller_than_a_pixel_fade() -> None:
    covered = [float(coverage((256, 1, 16, 16), area=area, apart=True).mean()) for area in (0.002, 0.004, 0.01)]
    assert 0.5 * 0.002 < covered[0] < covered[1] < covered[2] < 1.5 * 0.01


@pytest.mark.parametrize("shape_BCHW", [(64, 1, 64, 64), (64, 1, 16, 40)])
def test_one_spot_draw_grows(shape_BCHW: Shape) -> None:
    areas = (0.0005, 0.001, 0.005, 0.02, 0.05, 0.1)
    coverages = [coverage(shape_BCHW, area=area) for area in areas]
    for i in range(len(areas) - 1):
        assert bool((coverages[i + 1] >= coverages[i] - 1e-3).all())
        assert float(coverages[i + 1].mean()) > 1.2 * float(coverages[i].mean())


def test_there_are_a_few_whole_spots() -> None:
    masks_BHW = (coverage((32, 1, 128, 128), area=0.05, apart=True)[:, 0] > 0.5).numpy()
    for mask_HW in masks_BHW:
        assert 1 <= ndimage.label(mask_HW)[1] <= NUM_SPOTS
        assert (ndimage.binary_fill_holes(mask_HW) == mask_HW).all()


def test_spots_lie_everywhere() -> None:
    assert float(coverage((1024, 1, 16, 16), area=0.02).amax(dim=0).min()) > 0.5


def test_a_spot_step_covers_the_missing_share() -> None:
    images_BCHW = structured_images((8, 3, 32, 32), seed=0)
    stepped_BCHW = spotted(images_BCHW, source=0.03, target=0.08)
    torch.testing.assert_close(stepped_BCHW, spotted(images_BCHW, target=survival_step(0.03, 0.08)))
