import numpy as np
import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.policy.ops.perspective import MAX_TILT
from autopv.testing.op_suite import OpSuite, structured_images


class TestPerspective(OpSuite):
    op = "perspective"


def drawn_towards(tilt: np.ndarray) -> np.ndarray:
    """What the op makes of these two tilts."""
    return tilt / np.sqrt(1 + (np.abs(tilt).sum() / MAX_TILT) ** 2)


@pytest.mark.parametrize("shape_BCHW", [(4, 1, 16, 16), (4, 1, 12, 40)])
def test_perspective_agrees_with_its_homography_applied_by_scipy(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    tilts = np.array([[0.0, 0.0], [0.2, 0.0], [-0.1, 0.3], [0.4, 0.9]])
    tilted_BCHW = step("perspective", images_BCHW, target=0.25, draw={"tilt_B2": torch.from_numpy(tilts / 0.25)})
    height, width = shape_BCHW[-2:]
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])
    down_HW, across_HW = np.mgrid[:height, :width]
    pixels_3HW = np.stack((across_HW, down_HW, np.ones_like(down_HW)))
    for image_CHW, tilted_CHW, tilt in zip(images_BCHW, tilted_BCHW, tilts, strict=True):
        homography_33 = to_pixels @ [[1, 0, 0], [0, 1, 0], [*drawn_towards(tilt), 1]] @ np.linalg.inv(to_pixels)
        across_HW, down_HW, divisor_HW = np.tensordot(homography_33, pixels_3HW, axes=1)
        expected_HW = scipy.ndimage.map_coordinates(
            image_CHW[0].numpy(), [down_HW / divisor_HW, across_HW / divisor_HW], order=1, mode="reflect"
        )
        np.testing.assert_allclose(tilted_CHW[0].numpy(), expected_HW, atol=1e-6)


def test_the_horizon_stays_outside_whatever_is_drawn() -> None:
    """A ramp across is read at u / (1 + a u): finite, and in order wherever no reflection begins."""
    ramp_BCHW = torch.linspace(-1, 1, 64, dtype=torch.float64).expand(2, 1, 8, -1)
    draw = {"tilt_B2": torch.tensor([[-1e4, 0.0], [1e4, 0.0]])}
    tilted_BCHW = step("perspective", ramp_BCHW, target=get_op("perspective").high, draw=draw)
    u_W = ramp_BCHW[0, 0, 0] * 63 / 64
    for tilted_CHW, tilt in zip(tilted_BCHW, (-MAX_TILT, MAX_TILT), strict=True):
        place_W = u_W / (1 + tilt * u_W)
        inside_W = place_W.abs() < 63 / 64
        torch.testing.assert_close(tilted_CHW[0, 3, inside_W], place_W[inside_W] * 64 / 63, atol=1e-6, rtol=0)


def test_one_draw_tilts_on_in_one_direction() -> None:
    draw = get_op("perspective").draw((16, 1, 32, 32), generator=torch.Generator().manual_seed(0), device=CPU)
    ramp_BCHW = torch.linspace(-1, 1, 32, dtype=torch.float64).expand(16, 1, 32, -1)
    near_B, far_B = (
        (step("perspective", ramp_BCHW, target=tilt, draw=draw) - ramp_BCHW)[:, 0, 16, 8] for tilt in (0.02, 0.05)
    )
    assert bool((far_B / near_B > 1.5).all())


def test_tilt_steps_add_variances() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("perspective", images_BCHW, source=0.12, target=0.2)
    torch.testing.assert_close(stepped_BCHW, step("perspective", images_BCHW, target=0.16))
