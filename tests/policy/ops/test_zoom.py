import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from op_cases import step
from torch import Tensor

from autopv.testing.op_suite import OpSuite, structured_images


class TestZoom(OpSuite):
    op = "zoom"


def test_an_enlarged_image_agrees_with_scipy() -> None:
    images_BCHW = structured_images((3, 1, 12, 20), seed=0).double()
    scales = (1.0, 1.3, 2.7)
    zoomed_BCHW = step("zoom", images_BCHW, target=0.5, draw={"log_scale_B": _deviations(scales, target=0.5)})
    centre = np.array([5.5, 9.5])
    for image_CHW, zoomed_CHW, scale in zip(images_BCHW, zoomed_BCHW, scales, strict=True):
        expected_HW = scipy.ndimage.affine_transform(
            image_CHW[0].numpy(), [1 / scale] * 2, offset=centre * (1 - 1 / scale), order=1, mode="reflect"
        )
        np.testing.assert_allclose(zoomed_CHW[0].numpy(), expected_HW, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_reduced_image_is_antialiased_like_a_resized_one_with_its_reflection_around(factor: int) -> None:
    images_BCHW = structured_images((1, 2, 32, 48), seed=0).double()
    zoomed_BCHW = step("zoom", images_BCHW, target=0.5, draw={"log_scale_B": _deviations([1 / factor], target=0.5)})
    around = np.pad(images_BCHW.numpy(), ((0, 0), (0, 0), (64, 64), (96, 96)), mode="symmetric")
    size = (5 * 32 // factor, 5 * 48 // factor)
    small_BCHW = F.interpolate(torch.from_numpy(around), size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (size[0] - 32) // 2, (size[1] - 48) // 2
    expected_BCHW = small_BCHW[..., top : top + 32, left : left + 48]
    torch.testing.assert_close(zoomed_BCHW, expected_BCHW, atol=1e-6, rtol=0)


def test_zooming_out_without_bound_ends_at_a_mean_of_the_image() -> None:
    images_BCHW = structured_images((2, 1, 8, 8), seed=0)
    zoomed_BCHW = step("zoom", images_BCHW, target=0.5, draw={"log_scale_B": torch.tensor([-40.0, -9.0])})
    mean_BCHW = images_BCHW.mean(dim=(-2, -1), keepdim=True).expand_as(images_BCHW)
    torch.testing.assert_close(zoomed_BCHW, mean_BCHW, atol=0.02, rtol=0)


def test_zoom_steps_add_variances_and_one_draw_zooms_on_in_one_direction() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("zoom", images_BCHW, source=0.12, target=0.2)
    torch.testing.assert_close(stepped_BCHW, step("zoom", images_BCHW, target=0.16))
    ramp_BCHW = torch.linspace(-1, 1, 32, dtype=torch.float64).expand(8, 1, 32, -1)
    draw = {"log_scale_B": torch.linspace(0.2, 3, 8)}  # enlarged, so that no reflection is seen
    near_B, far_B = (step("zoom", ramp_BCHW, target=t, draw=draw)[:, 0, 16, 24] for t in (0.1, 0.3))
    torch.testing.assert_close(far_B / ramp_BCHW[0, 0, 0, 24], (near_B / ramp_BCHW[0, 0, 0, 24]) ** 3)


def _deviations(scales: Sequence[float], *, target: float) -> Tensor:
    return torch.tensor([math.log(scale) / target for scale in scales], dtype=torch.float64)
