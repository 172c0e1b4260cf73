import numpy as np
import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.policy.ops.elastic import CORRELATION_LENGTH
from autopv.testing.op_suite import OpSuite, structured_images


class TestElastic(OpSuite):
    op = "elastic"


@pytest.mark.parametrize("shape_BCHW", [(3, 1, 24, 24), (3, 1, 16, 40)])
def test_elastic_agrees_with_scipy(shape_BCHW: tuple[int, int, int, int]) -> None:
    height, width = shape_BCHW[-2:]
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    draw = get_op("elastic").draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    deformed_BCHW = step("elastic", images_BCHW, target=0.05, draw=draw)
    down_HW, across_HW = np.mgrid[:height, :width]
    for b in range(3):
        displacement_2HW = draw["displacement_B2HW"][b].double().numpy() * 0.05
        places = [down_HW + displacement_2HW[1] * height, across_HW + displacement_2HW[0] * width]
        expected_HW = scipy.ndimage.map_coordinates(images_BCHW[b, 0].numpy(), places, order=1, mode="reflect")
        np.testing.assert_allclose(deformed_BCHW[b, 0].numpy(), expected_HW, atol=1e-6)


@pytest.mark.parametrize("shape_BCHW", [(512, 1, 32, 32), (512, 3, 32, 64)])
def test_displacements_have_the_stated_spread_in_shares_of_the_shorter_side(
    shape_BCHW: tuple[int, int, int, int],
) -> None:
    draw = get_op("elastic").draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    for axis, size_px in ((0, shape_BCHW[3]), (1, shape_BCHW[2])):
        deviations_BHW = draw["displacement_B2HW"][:, axis] * (size_px / 32)
        assert float(deviations_BHW.std()) == pytest.approx(1, rel=0.05)
        assert float(deviations_BHW.mean()) == pytest.approx(0, abs=0.1)


def test_displacements_decorrelate_over_the_stated_length() -> None:
    """White noise blurred by a Gaussian correlates like exp(-(distance / length)^2 / 4)."""
    draw = get_op("elastic").draw((512, 1, 58, 58), generator=torch.Generator().manual_seed(0), device=CPU)
    line_NW = draw["displacement_B2HW"][:, :, 29].flatten(end_dim=1)
    length_px = round(CORRELATION_LENGTH * 58)
    for distance_px in (length_px, 2 * length_px):
        pair_2N = torch.stack((line_NW[:, 25], line_NW[:, 25 + distance_px]))
        expected = np.exp(-((distance_px / length_px) ** 2) / 4)
        assert float(torch.corrcoef(pair_2N)[0, 1]) == pytest.approx(expected, abs=0.1)


def test_one_draw_deforms_on_and_steps_add_variances() -> None:
    images_BCHW = structured_images((4, 1, 16, 16), seed=0)
    stepped_BCHW = step("elastic", images_BCHW, source=0.03, target=0.05)
    torch.testing.assert_close(stepped_BCHW, step("elastic", images_BCHW, target=0.04))
    ramp_BCHW = torch.arange(32.0).expand(4, 1, 32, -1)
    near_BCHW, far_BCHW = (step("elastic", ramp_BCHW, target=t) - ramp_BCHW for t in (0.01, 0.03))
    torch.testing.assert_close(far_BCHW[..., 12:20], 3 * near_BCHW[..., 12:20], atol=1e-4, rtol=0)
