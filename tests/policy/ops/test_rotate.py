import warnings

import numpy as np
import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestRotate(OpSuite):
    op = "rotate"


def test_rotate_by_a_right_angle_turns_the_pixels() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0)
    draw = {"angle_B": torch.tensor([9.0, -9.0])}  # in standard deviations of 10 degrees
    turned_BCHW = step("rotate", images_BCHW, target=10.0, draw=draw)
    torch.testing.assert_close(turned_BCHW[0], torch.rot90(images_BCHW[0], 1, (-2, -1)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned_BCHW[1], torch.rot90(images_BCHW[1], -1, (-2, -1)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape_BCHW", [(4, 1, 32, 32), (4, 3, 24, 40)])
def test_rotate_agrees_with_kornia(shape_BCHW: tuple[int, int, int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kornia.geometry.transform import rotate

    images_BCHW = structured_images(shape_BCHW, seed=0)
    angle_B = torch.tensor([-40.0, -3.0, 0.0, 75.0])
    expected_BCHW = rotate(images_BCHW, angle_B, padding_mode="reflection", align_corners=True)
    turned_BCHW = step("rotate", images_BCHW, target=20.0, draw={"angle_B": angle_B / 20})
    # kornia turns about the same centre; both corner conventions then reflect at borders half a pixel apart, so the
    # middle of the image is what must agree.
    rows, columns = (slice(size // 3, size - size // 3) for size in shape_BCHW[-2:])
    torch.testing.assert_close(turned_BCHW[..., rows, columns], expected_BCHW[..., rows, columns], atol=2e-4, rtol=0)


def test_rotate_agrees_with_scipy_up_to_the_reflected_corners() -> None:
    image_HW = structured_images((1, 1, 20, 36), seed=0).double()[0, 0]
    turned_BCHW = step("rotate", image_HW[None, None], target=30.0, draw={"angle_B": torch.tensor([1.5])})
    cos, sin = np.cos(np.pi / 4), np.sin(np.pi / 4)
    turn_22, centre_2 = np.array([[cos, sin], [-sin, cos]]), np.array([9.5, 17.5])
    expected_HW = scipy.ndimage.affine_transform(
        image_HW.numpy(), turn_22, offset=centre_2 - turn_22 @ centre_2, order=1, mode="reflect"
    )
    np.testing.assert_allclose(turned_BCHW[0, 0].numpy(), expected_HW, atol=1e-6)


def test_one_draw_turns_on_in_one_direction() -> None:
    """A ramp across, read at a small angle on the vertical through the centre, tells the sine of the angle."""
    ramp_BCHW = torch.arange(65, dtype=torch.float64).expand(16, 1, 65, -1)
    near_B, far_B = (step("rotate", ramp_BCHW, target=degrees)[:, 0, 48, 32] - 32 for degrees in (2.0, 6.0))
    torch.testing.assert_close((far_B / 16).asin(), 3 * (near_B / 16).asin())


def test_rotation_steps_add_variances() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("rotate", images_BCHW, source=6.0, target=10.0)
    torch.testing.assert_close(stepped_BCHW, step("rotate", images_BCHW, target=8.0))


def test_rotation_angles_have_the_stated_spread() -> None:
    draw = get_op("rotate").draw((20_000, 1, 8, 8), generator=torch.Generator().manual_seed(0), device=CPU)
    assert float(draw["angle_B"].std()) == pytest.approx(1, rel=0.03)
    assert float(draw["angle_B"].mean()) == pytest.approx(0, abs=0.03)
