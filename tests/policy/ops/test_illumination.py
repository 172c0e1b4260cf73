import math

import pytest
import torch
from op_cases import step
from torch import Tensor

from autopv.testing.op_suite import OpSuite, structured_images


class TestIllumination(OpSuite):
    op = "illumination"


@pytest.mark.parametrize("shape_BCHW", [(3, 1, 8, 8), (3, 3, 33, 64)])
def test_illumination_multiplies_by_the_exponential_of_a_plane(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    draw = {"down_B": torch.tensor([1.0, 0.0, -0.5]), "right_B": torch.tensor([0.0, -2.0, 0.25])}
    factors_BCHW = step("illumination", torch.ones_like(images_BCHW), target=0.4, draw=draw)
    height, width = shape_BCHW[-2:]
    # The change between opposite pixels of the border, whose centres lie half a pixel inside.
    down_B = factors_BCHW[:, 0, -1, 0].log() - factors_BCHW[:, 0, 0, 0].log()
    torch.testing.assert_close(down_B, 2 * 0.4 * draw["down_B"].double() * (1 - 1 / height))
    right_B = factors_BCHW[:, 0, 0, -1].log() - factors_BCHW[:, 0, 0, 0].log()
    torch.testing.assert_close(right_B, 2 * 0.4 * draw["right_B"].double() * (1 - 1 / width))
    torch.testing.assert_close(step("illumination", images_BCHW, target=0.4, draw=draw), images_BCHW * factors_BCHW)
    torch.testing.assert_close(factors_BCHW.log().mean(dim=(1, 2, 3)), torch.zeros(3, dtype=torch.float64))


def test_the_change_from_the_centre_to_the_middle_of_an_edge_has_the_stated_spread() -> None:
    factors_BCHW = step("illumination", torch.ones(20_000, 1, 1, 9), target=0.3)  # one row: the right-hand gradient
    change_B = factors_BCHW[:, 0, 0, -1].log() * 9 / 8  # the last pixel's centre lies half a pixel before the edge
    assert float(change_B.std()) == pytest.approx(0.3, rel=0.03)


def test_light_falls_from_every_direction() -> None:
    factors_BCHW = step("illumination", torch.ones(4000, 1, 2, 2), target=0.3).log()
    down_B, right_B = (difference(factors_BCHW, dim=dim) for dim in (-2, -1))
    angle_B = torch.atan2(down_B, right_B)
    counts = torch.histc(angle_B, bins=8, min=-math.pi, max=math.pi)
    assert float((counts - 500).abs().max()) < 5 * math.sqrt(500)


def difference(values_BCHW: Tensor, *, dim: int) -> Tensor:
    return values_BCHW.diff(dim=dim).mean(dim=(1, 2, 3))


def test_two_lights_are_one_whose_exponents_are_their_sum() -> None:
    images_BCHW = structured_images((8, 3, 16, 16), seed=0).double()
    small_BCHW = step("illumination", images_BCHW, target=0.3)
    torch.testing.assert_close(
        step("illumination", small_BCHW, target=0.3), step("illumination", images_BCHW, target=0.6)
    )
    torch.testing.assert_close(
        step("illumination", images_BCHW, source=0.3, target=0.5), step("illumination", images_BCHW, target=0.4)
    )
