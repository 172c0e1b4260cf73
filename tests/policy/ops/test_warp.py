import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F

from autopv.policy.ops.warp import folded, pixel_places, read_at
from autopv.testing.op_suite import structured_images


@pytest.mark.parametrize("shape_BCHW", [(2, 3, 16, 16), (1, 2, 9, 40)])
def test_pixel_places_are_the_identity_grid(shape_BCHW: tuple[int, int, int, int]) -> None:
    identity_B23 = torch.eye(2, 3).expand(shape_BCHW[0], -1, -1)
    grid_BHW2 = F.affine_grid(identity_B23, list(shape_BCHW), align_corners=False)
    images_BCHW = structured_images(shape_BCHW, seed=0)
    places_2HW = pixel_places(images_BCHW)
    torch.testing.assert_close(places_2HW.permute(1, 2, 0).expand_as(grid_BHW2), grid_BHW2)
    read_BCHW = read_at(images_BCHW, places_2HW.expand(shape_BCHW[0], -1, -1, -1))
    torch.testing.assert_close(read_BCHW, images_BCHW, atol=1e-5, rtol=0)


def test_reading_agrees_with_scipy_far_beyond_the_borders_too() -> None:
    images_BCHW = structured_images((1, 1, 12, 20), seed=0).double()
    places_B2HW = 6 * torch.rand(1, 2, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 3
    across_px, down_px = (((places_B2HW[0, i] + 1) * size_px / 2 - 0.5).numpy() for i, size_px in enumerate((20, 12)))
    expected_HW = scipy.ndimage.map_coordinates(
        images_BCHW[0, 0].numpy(), [down_px, across_px], order=1, mode="reflect"
    )
    np.testing.assert_allclose(read_at(images_BCHW, places_B2HW)[0, 0].numpy(), expected_HW, atol=1e-12)
    inside_BCHW = read_at(images_BCHW, folded(places_B2HW), inside=True)
    np.testing.assert_allclose(inside_BCHW[0, 0].numpy(), expected_HW, atol=1e-12)
