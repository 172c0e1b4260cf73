from itertools import pairwise

import pytest
import torch
from op_cases import step

from autopv.testing.op_suite import OpSuite, structured_images


class TestDeadLines(OpSuite):
    op = "dead_lines"


def test_lines_are_dead_whole_and_read_zero() -> None:
    images_BCHW = structured_images((8, 3, 24, 40), seed=0) + 0.1
    dead_BCHW = step("dead_lines", images_BCHW, target=0.3)
    gone_BHW = (dead_BCHW == 0).all(dim=1)
    rows_BH, columns_BW = gone_BHW.all(dim=2), gone_BHW.all(dim=1)
    assert torch.equal(gone_BHW, rows_BH[:, :, None] | columns_BW[:, None, :])
    kept_BCHW = (~gone_BHW)[:, None].expand_as(images_BCHW)
    assert torch.equal(dead_BCHW[kept_BCHW], images_BCHW[kept_BCHW])
    assert bool(rows_BH.any())
    assert bool(columns_BW.any())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
@pytest.mark.parametrize("side", [16, 64, 100])
def test_the_stated_share_of_lines_dies_at_every_size(side: int, share: float) -> None:
    alive_BHW = step("dead_lines", torch.ones(512, 1, side, side), target=share)[:, 0]
    rows_BH = alive_BHW.amax(dim=2)
    dead = 1 - float(rows_BH[alive_BHW.amax(dim=(1, 2)) > 0].mean())
    assert dead == pytest.approx(share, abs=0.02)
    assert 1 - float(alive_BHW.mean()) == pytest.approx(1 - (1 - share) ** 2, abs=0.02)


def test_lines_of_large_images_are_as_thick_as_those_of_64_pixels() -> None:
    small_BCHW, large_BCHW = (step("dead_lines", torch.ones(4, 1, side, side), target=0.2) for side in (64, 192))
    enlarged_BCHW = small_BCHW.repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)
    assert torch.equal(large_BCHW, enlarged_BCHW)


def test_with_one_draw_dead_lines_stay_dead() -> None:
    alive = [step("dead_lines", torch.ones(16, 1, 33, 20), target=share) for share in (0.02, 0.1, 0.3, 0.7)]
    for fewer_dead_BCHW, more_dead_BCHW in pairwise(alive):
        assert bool((more_dead_BCHW <= fewer_dead_BCHW).all())
        assert not torch.equal(more_dead_BCHW, fewer_dead_BCHW)
