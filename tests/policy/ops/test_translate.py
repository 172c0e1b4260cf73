import numpy as np
import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestTranslate(OpSuite):
    op = "translate"


def test_a_whole_number_of_pixels_moves_pixels_and_reflects_at_the_border() -> None:
    images_BCHW = structured_images((1, 3, 16, 16), seed=0)
    draw = {"offset_B2": torch.tensor([[3.0, -2.0]])}  # in standard deviations of a pixel
    moved_BCHW = step("translate", images_BCHW, target=1 / 16, draw=draw)
    torch.testing.assert_close(moved_BCHW[..., :-2, 3:], images_BCHW[..., 2:, :-3], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_BCHW[..., :-2, :3], images_BCHW[..., 2:, :3].flip(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape_BCHW", [(4, 1, 16, 16), (4, 2, 12, 40)])
def test_translate_agrees_with_scipy_at_parts_of_a_pixel(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    offset_px_B2 = torch.tensor([[0.3, 0.0], [-4.25, 7.5], [0.0, -0.8], [31.4, -18.9]])
    moved_BCHW = step(
        "translate", images_BCHW, target=0.1, draw={"offset_B2": offset_px_B2 / (0.1 * min(shape_BCHW[-2:]))}
    )
    for image_CHW, moved_CHW, (across, down) in zip(images_BCHW, moved_BCHW, offset_px_B2.tolist(), strict=True):
        expected_CHW = scipy.ndimage.shift(image_CHW.numpy(), (0, down, across), order=1, mode="reflect")
        np.testing.assert_allclose(moved_CHW.numpy(), expected_CHW, atol=1e-5)


def test_translation_steps_add_variances() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("translate", images_BCHW, source=0.06, target=0.1)
    torch.testing.assert_close(stepped_BCHW, step("translate", images_BCHW, target=0.08))


def test_one_draw_moves_on_in_one_direction() -> None:
    """The image is a ramp across, so that a moved pixel tells how far it came."""
    ramp_BCHW = torch.linspace(0, 1, 64, dtype=torch.float64).expand(8, 1, 64, -1)
    draw = get_op("translate").draw((8, 1, 64, 64), generator=torch.Generator().manual_seed(0), device=CPU)
    near_B, far_B = (
        (step("translate", ramp_BCHW, target=offset, draw=draw) - ramp_BCHW)[:, 0, 32, 32] for offset in (0.02, 0.06)
    )
    torch.testing.assert_close(far_B, 3 * near_B)
    torch.testing.assert_close(near_B, -draw["offset_B2"][:, 0].double() * 0.02 * 64 / 63, atol=1e-6, rtol=0)
