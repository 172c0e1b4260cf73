import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.crack import Crack
from autopv.testing.op_suite import OpSuite, structured_images

Shape = tuple[int, int, int, int]


class TestCrack(OpSuite):
    op = "crack"
    least_change = 0.006  # thin lines


def cracked(images_BCHW: Tensor, *, target: float, source: float = 0.0) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    generator, device = torch.Generator().manual_seed(0), torch.device("cpu")
    draw = dict(Crack().draw((batch, channels, height, width), generator=generator, device=device))
    draw.update(Crack().prepare(images_BCHW, masks_BHW=None, donors_NCHW=None))
    return Crack().corrupt(images_BCHW, draw, source=source, target=target)


def coverage(shape_BCHW: Shape, *, length: float) -> Tensor:
    """The covered share of every pixel: on white images a crack is as dark as the least contrast."""
    return (1 - cracked(torch.ones(shape_BCHW), target=length)) / strokes.MIN_CONTRAST


def end_points(mask_HW: np.ndarray) -> int:
    """How many ends the thinned shape has."""
    from skimage.morphology import skeletonize

    skeleton_HW = skeletonize(mask_HW)
    neighbours_HW = ndimage.convolve(skeleton_HW.astype(int), np.ones((3, 3), dtype=int), mode="constant") - 1
    return int((skeleton_HW & (neighbours_HW == 1)).sum())


@pytest.mark.parametrize("shape_BCHW", [(64, 1, 64, 64), (64, 1, 16, 40)])
def test_one_crack_draw_grows(shape_BCHW: Shape) -> None:
    lengths = (0.05, 0.1, 0.3, 0.7, 1.0, 1.4)
    coverages = [coverage(shape_BCHW, length=length) for length in lengths]
    for i in range(len(lengths) - 1):
        assert bool((coverages[i + 1] >= coverages[i] - 1e-6).all())
        assert float(coverages[i + 1].mean()) > 1.2 * float(coverages[i].mean())


def test_a_crack_is_one_piece_and_branches_as_it_grows() -> None:
    shape_BCHW = (32, 1, 128, 128)
    ends = []
    for length in (0.4, 1.4):
        masks_BHW = (coverage(shape_BCHW, length=length)[:, 0] > 0.15).numpy()
        pieces = [ndimage.label(mask_HW, structure=np.ones((3, 3)))[1] for mask_HW in masks_BHW]
        # Parts that leave the image may come back into it.
        assert np.mean(np.array(pieces) == 1) > 0.8
        ends.append(np.mean([end_points(mask_HW) for mask_HW in masks_BHW]))
    assert ends[0] < 3.5
    assert ends[1] > ends[0] + 1


def test_a_crack_is_longer_than_wide_and_covers_little() -> None:
    coverage_BCHW = coverage((64, 1, 128, 128), length=1.4)
    assert 0.01 < float(coverage_BCHW.mean()) < 0.04
    assert float(coverage_BCHW.amax(dim=(1, 2, 3)).min()) > 0.8


def test_a_crack_never_brightens() -> None:
    images_BCHW = structured_images((16, 3, 64, 64), seed=0)
    cracked_BCHW = cracked(images_BCHW, target=1.4)
    assert bool((cracked_BCHW <= images_BCHW + 1e-6).all())
    assert float(cracked_BCHW.min()) >= 0


def test_a_crack_step_adds_a_crack_of_the_difference() -> None:
    images_BCHW = structured_images((8, 3, 32, 32), seed=0)
    torch.testing.assert_close(cracked(images_BCHW, source=0.3, target=0.8), cracked(images_BCHW, target=0.8 - 0.3))
