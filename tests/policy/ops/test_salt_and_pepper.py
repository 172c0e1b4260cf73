import pytest
import torch
from op_cases import step

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestSaltAndPepper(OpSuite):
    op = "salt_and_pepper"


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_the_share_of_the_pixels_is_black_or_white_at_even_odds_and_the_rest_untouched(share: float) -> None:
    images_BCHW = torch.full((16, 1, 128, 128), 0.5)
    noisy_BCHW = step("salt_and_pepper", images_BCHW, target=share)
    num_pixels = noisy_BCHW.numel()
    deviation = (share * (1 - share / 2) / num_pixels) ** 0.5
    for value in (0.0, 1.0):
        assert float((noisy_BCHW == value).float().mean()) == pytest.approx(share / 2, abs=5 * deviation)
    assert bool(((noisy_BCHW == 0) | (noisy_BCHW == 1) | (noisy_BCHW == 0.5)).all())


def test_all_channels_of_a_pixel_are_struck_alike() -> None:
    images_BCHW = structured_images((4, 3, 32, 32), seed=0) * 0.8 + 0.1
    struck_BCHW = step("salt_and_pepper", images_BCHW, target=0.5)
    changed_BCHW = struck_BCHW != images_BCHW
    assert torch.equal(changed_BCHW, changed_BCHW[:, :1].expand_as(changed_BCHW))
    spread_BHW = struck_BCHW.amax(dim=1) - struck_BCHW.amin(dim=1)
    assert float(spread_BHW[changed_BCHW[:, 0]].max()) == 0


def test_with_one_draw_struck_pixels_stay_struck_with_the_same_value() -> None:
    images_BCHW = torch.full((4, 3, 32, 32), 0.5)
    few_BCHW, many_BCHW = (step("salt_and_pepper", images_BCHW, target=share) for share in (0.2, 0.7))
    assert torch.equal(many_BCHW[few_BCHW != 0.5], few_BCHW[few_BCHW != 0.5])
    assert int((many_BCHW != 0.5).sum()) > 2 * int((few_BCHW != 0.5).sum())


def test_a_step_strikes_the_missing_share_of_what_survives() -> None:
    images_BCHW = structured_images((4, 1, 32, 32), seed=0)
    stepped_BCHW = step("salt_and_pepper", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("salt_and_pepper", images_BCHW, target=0.5))


def test_two_layers_merge_only_where_the_curve_is_constant() -> None:
    op = get_op("salt_and_pepper")
    assert op.merged(0.5, 0.5, constant=True) == pytest.approx(0.75)
    assert op.merged(0.5, 0.5, constant=False) is None
