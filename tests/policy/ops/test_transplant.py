import pytest
import torch

from autopv.policy.ops.transplant import transplant
from autopv.testing.op_suite import structured_images


@pytest.mark.parametrize("side", [33, 64])
def test_a_hole_in_a_periodic_texture_is_filled_with_the_texture(side: int) -> None:
    tile_CHW = structured_images((1, 3, 11, 11), seed=0)[0]
    images_BCHW = tile_CHW.repeat(2, 1, 6, 6)[..., :side, :side]
    light_HW = torch.linspace(0, 0.3, side).expand(side, side)  # what the seamless edge has to make up for
    images_BCHW = torch.stack([images_BCHW[0], images_BCHW[0] + light_HW])
    unknown_B1HW = torch.zeros(2, 1, side, side, dtype=torch.bool)
    unknown_B1HW[:, :, 9:17, 10:19] = True
    broken_BCHW = torch.where(unknown_B1HW, 0.0, images_BCHW)
    healed_BCHW = transplant(broken_BCHW, unknown_B1HW)
    error_BCHW = (healed_BCHW - images_BCHW).abs()
    assert float(error_BCHW[0].max()) < 1e-4
    assert float(error_BCHW[1].max()) < 0.03


def test_known_pixels_stay_bit_for_bit_and_unknown_ones_count_for_nothing() -> None:
    images_BCHW = structured_images((3, 3, 24, 40), seed=0)
    unknown_B1HW = torch.zeros(3, 1, 24, 40, dtype=torch.bool)
    unknown_B1HW[0, 0, 3:9, 4:20] = True
    unknown_B1HW[1, 0, 5:, :33] = True
    healed_BCHW = transplant(images_BCHW, unknown_B1HW)
    known_BCHW = ~unknown_B1HW.expand_as(images_BCHW)
    assert torch.equal(healed_BCHW[known_BCHW], images_BCHW[known_BCHW])
    other_BCHW = torch.where(unknown_B1HW, 1 - images_BCHW, images_BCHW)
    torch.testing.assert_close(transplant(other_BCHW, unknown_B1HW), healed_BCHW, atol=1e-5, rtol=0)


def test_an_image_without_a_known_pixel_is_filled_with_its_mean() -> None:
    images_BCHW = structured_images((2, 3, 16, 24), seed=0)
    healed_BCHW = transplant(images_BCHW, torch.ones(2, 1, 16, 24, dtype=torch.bool))
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(healed_BCHW, mean_BC11.expand_as(images_BCHW))
