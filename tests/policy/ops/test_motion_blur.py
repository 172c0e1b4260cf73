import math

import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestMotionBlur(OpSuite):
    op = "motion_blur"


def moved(images_BCHW: Tensor, *, length: float, angle: float) -> Tensor:
    draw = {"angle_B": torch.full((len(images_BCHW),), angle, dtype=torch.float64)}
    return step("motion_blur", images_BCHW, target=length, draw=draw)


def smooth_images(shape_BCHW: tuple[int, int, int, int]) -> Tensor:
    """Images without the frequencies that interpolation of shifted pixels would lose."""
    return step("gaussian_blur", structured_images(shape_BCHW, seed=0).double(), target=1.5 / min(shape_BCHW[-2:]))


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, 2.5])
@pytest.mark.parametrize("shape_BCHW", [(1, 1, 32, 32), (1, 1, 24, 45)])
def test_motion_blur_is_the_mean_of_scipys_shifts_along_the_line(
    shape_BCHW: tuple[int, int, int, int], angle: float
) -> None:
    images_BCHW = smooth_images(shape_BCHW)
    length, num_shifts = 0.3, 32
    expected_HW = torch.zeros_like(images_BCHW[0, 0])
    for i in range(num_shifts):
        along_px = ((i + 0.5) / num_shifts - 0.5) * length * min(shape_BCHW[-2:])
        shift = (along_px * math.sin(angle), along_px * math.cos(angle))
        shifted = scipy.ndimage.shift(images_BCHW[0, 0].numpy(), shift, order=5, mode="reflect")
        expected_HW += torch.from_numpy(shifted) / num_shifts
    moved_HW = moved(images_BCHW, length=length, angle=angle)[0, 0]
    torch.testing.assert_close(moved_HW, expected_HW, atol=1e-3, rtol=0)


@pytest.mark.parametrize("angle", [0.0, math.pi / 6, math.pi / 2, 2.2])
def test_a_point_becomes_a_line_of_that_length_and_direction(angle: float) -> None:
    images_BCHW = torch.zeros(1, 1, 65, 65, dtype=torch.float64)
    images_BCHW[..., 32, 32] = 1
    length_px = 24
    line_HW = moved(images_BCHW, length=length_px / 65, angle=angle)[0, 0]
    assert float(line_HW.sum()) == pytest.approx(1)
    offset_N = torch.arange(65, dtype=torch.float64) - 32
    along_HW = offset_N[:, None] * math.sin(angle) + offset_N * math.cos(angle)
    across_HW = offset_N[:, None] * math.cos(angle) - offset_N * math.sin(angle)
    on_line_HW = (along_HW.abs() < length_px / 2 - 1) & (across_HW.abs() < 0.5)
    far_HW = (along_HW.abs() > length_px / 2 + 3) | (across_HW.abs() > 3)
    assert float(line_HW[on_line_HW].min()) > 0.3 / length_px
    assert float(line_HW[far_HW].abs().max()) < 0.15 / length_px


def test_a_wave_along_the_motion_keeps_its_sinc_and_one_across_it_stays() -> None:
    columns_W = torch.arange(40, dtype=torch.float64) + 0.5
    images_BCHW = (math.pi * 6 * columns_W / 40).cos().expand(1, 1, 24, 40)
    phase = math.pi * 6 / 40 * 0.25 * 24 / 2
    torch.testing.assert_close(
        moved(images_BCHW, length=0.25, angle=0.0), images_BCHW * math.sin(phase) / phase, atol=1e-9, rtol=0
    )
    torch.testing.assert_close(moved(images_BCHW, length=0.25, angle=math.pi / 2), images_BCHW)


@pytest.mark.parametrize(("angle", "tolerance"), [(0.0, 1e-9), (math.pi / 2, 1e-9), (0.7, 0.02)])
def test_motion_blur_keeps_the_mean_but_for_what_crosses_the_border_askew(angle: float, tolerance: float) -> None:
    images_BCHW = structured_images((8, 3, 24, 40), seed=0).double()
    moved_BCHW = moved(images_BCHW, length=0.5, angle=angle)
    torch.testing.assert_close(moved_BCHW.mean(dim=(-2, -1)), images_BCHW.mean(dim=(-2, -1)), atol=tolerance, rtol=0)


def test_one_motion_draw_lengthens_along_its_line() -> None:
    images_BCHW = torch.zeros(16, 1, 65, 65, dtype=torch.float64)
    images_BCHW[..., 32, 32] = 1
    short_BCHW, long_BCHW = (step("motion_blur", images_BCHW, target=length) for length in (0.15, 0.4))
    on_short_BCHW = short_BCHW > 0.25 * short_BCHW.amax(dim=(-2, -1), keepdim=True)
    on_long_BCHW = long_BCHW > 0.1 * long_BCHW.amax(dim=(-2, -1), keepdim=True)
    assert float(on_long_BCHW[on_short_BCHW].double().mean()) > 0.9
    assert int(on_long_BCHW.sum()) > 1.5 * int(on_short_BCHW.sum())


def test_lengths_of_a_fraction_of_a_pixel_are_continuous() -> None:
    images_BCHW = structured_images((4, 1, 32, 32), seed=0).double()
    changes = [
        float((step("motion_blur", images_BCHW, target=px / 32) - images_BCHW).abs().mean()) for px in (0.1, 0.2, 0.4)
    ]
    # A blur changes an image by its variance, as long as it is small.
    assert changes[1] / changes[0] == pytest.approx(4, rel=0.1)
    assert changes[2] / changes[1] == pytest.approx(4, rel=0.1)


def test_directions_are_spread_evenly() -> None:
    draw = get_op("motion_blur").draw((20_000, 1, 8, 8), generator=torch.Generator().manual_seed(0), device=CPU)
    angle_B = draw["angle_B"].double()
    assert abs(float((2 * angle_B).cos().mean())) < 0.03
    assert abs(float((2 * angle_B).sin().mean())) < 0.03
