"""What makes each op special, against a closed form or an independent implementation."""

import math
import warnings

import pytest
import scipy.ndimage
import torch
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy.ops import Op, get_op, register
from autopv.policy.ops.base import Draw
from autopv.policy.ops.gaussian_blur import blur_matrix
from autopv.testing.op_suite import structured_images

CPU = torch.device("cpu")


def step(op: str, images_BCHW: Tensor, *, target: float, source: float = 0.0, draw: Draw | None = None) -> Tensor:
    if draw is None:
        shape_BCHW = tuple(images_BCHW.shape)
        draw = get_op(op).draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    return get_op(op).corrupt(images_BCHW, draw, source=source, target=target)


@pytest.mark.parametrize(("side", "expected"), [(32, 0.1), (64, 0.2), (128, 0.4)])
def test_noise_is_stated_at_64_px_and_scales_with_the_side(side: int, expected: float) -> None:
    noisy_BCHW = step("gaussian_noise", torch.zeros(4, 1, side, side), target=0.2)
    assert float(noisy_BCHW.std()) == pytest.approx(expected, rel=0.05)
    assert float(noisy_BCHW.mean()) == pytest.approx(0, abs=5 * expected / (2 * side))


def test_noise_hides_the_same_structures_at_every_size() -> None:
    noise_BCHW = step("gaussian_noise", torch.zeros(16, 1, 128, 128), target=0.2)
    assert float(torch.nn.functional.avg_pool2d(noise_BCHW, 2).std()) == pytest.approx(0.2, rel=0.05)


def test_noise_steps_add_variances() -> None:
    noisy_BCHW = step("gaussian_noise", torch.zeros(8, 1, 64, 64), source=0.3, target=0.5)
    assert float(noisy_BCHW.std()) == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("shape_BCHW", [(2, 1, 64, 64), (2, 3, 33, 48)])
def test_blur_is_scipys_gaussian_filter_with_reflecting_borders(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).double()
    sigma_px = 0.08 * min(shape_BCHW[-2:])
    expected = scipy.ndimage.gaussian_filter(images_BCHW.numpy(), (0, 0, sigma_px, sigma_px), truncate=8)
    torch.testing.assert_close(
        step("gaussian_blur", images_BCHW, target=0.08), torch.from_numpy(expected), atol=1e-6, rtol=0
    )


def test_eight_blurs_equal_one_of_the_summed_variance() -> None:
    images_BCHW = structured_images((4, 3, 64, 64), seed=0)
    stepped_BCHW = images_BCHW
    for i in range(8):
        stepped_BCHW = step("gaussian_blur", stepped_BCHW, source=0.02 * i, target=0.02 * (i + 1))
    torch.testing.assert_close(stepped_BCHW, step("gaussian_blur", images_BCHW, target=0.16), atol=2e-6, rtol=0)


def test_blur_keeps_the_mean_and_tends_to_it() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0).double()
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    blurred_BCHW = step("gaussian_blur", images_BCHW, target=0.5)
    torch.testing.assert_close(blurred_BCHW.mean(dim=(-2, -1), keepdim=True), mean_BC11)
    assert float((blurred_BCHW - mean_BC11).std()) < 0.3 * float((images_BCHW - mean_BC11).std())


def test_a_cached_blur_matrix_serves_inside_and_outside_inference_mode() -> None:
    with torch.inference_mode():
        matrix_NN = blur_matrix(19, sigma_px=1.25, dtype=torch.float32, device=CPU)
    weights_NN = torch.ones(19, 19, requires_grad=True)
    (weights_NN @ matrix_NN).sum().backward()
    assert weights_NN.grad is not None


@pytest.mark.parametrize("block_px", [2, 4, 8])
def test_pixelate_is_average_pooling_where_blocks_fit(block_px: int) -> None:
    images_BCHW = structured_images((2, 3, 16, 32), seed=0)
    pooled_BCHW = torch.nn.functional.avg_pool2d(images_BCHW, block_px)
    expected_BCHW = pooled_BCHW.repeat_interleave(block_px, dim=-1).repeat_interleave(block_px, dim=-2)
    torch.testing.assert_close(step("pixelate", images_BCHW, target=block_px / 16), expected_BCHW)


def test_pixelate_composes_where_blocks_nest_and_only_there() -> None:
    images_BCHW = structured_images((2, 1, 24, 24), seed=0)
    for source, target, nested in ((1 / 8, 1 / 4, True), (1 / 4, 1 / 3, False)):
        direct_BCHW = step("pixelate", images_BCHW, target=target)
        stepped_BCHW = step("pixelate", step("pixelate", images_BCHW, target=source), source=source, target=target)
        assert torch.allclose(stepped_BCHW, direct_BCHW, atol=1e-6) == nested


def test_contrast_scales_deviations_and_keeps_the_mean() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0).double()
    flat_BCHW = step("contrast", images_BCHW, target=0.75)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(flat_BCHW - mean_BC11, 0.25 * (images_BCHW - mean_BC11))
    assert torch.equal(step("contrast", flat_BCHW, source=1.0, target=1.0), flat_BCHW)
    torch.testing.assert_close(step("contrast", images_BCHW, target=1.0), mean_BC11.expand_as(images_BCHW))


@pytest.mark.parametrize("area", [0.005, 0.3, 0.9])
@pytest.mark.parametrize("shape_BCHW", [(64, 1, 8, 8), (64, 1, 33, 64)])
def test_erase_covers_exactly_its_area(shape_BCHW: tuple[int, int, int, int], area: float) -> None:
    mask_BCHW = erased_mask(shape_BCHW, area=area)
    torch.testing.assert_close(mask_BCHW.mean(dim=(1, 2, 3)), torch.full((64,), area, dtype=torch.float64))
    assert float(mask_BCHW.min()) >= 0
    assert float(mask_BCHW.max()) <= 1


def test_an_erase_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("erase", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("erase", images_BCHW, target=0.5))


def test_one_erase_draw_grows_and_boxes_lie_everywhere() -> None:
    small_BCHW, large_BCHW = (erased_mask((256, 1, 16, 16), area=area) for area in (0.1, 0.5))
    assert bool((large_BCHW >= small_BCHW - 1e-12).all())
    assert bool((small_BCHW.amax(dim=0) > 0).all())


def erased_mask(shape_BCHW: tuple[int, int, int, int], *, area: float) -> Tensor:
    """The covered share of every pixel: one op call on two images that differ by 1 in one pixel's place only.

    Filling with the mean is linear in the image, so a zero-mean image reads the mask off.
    """
    checkers_HW = torch.ones(shape_BCHW[-2:], dtype=torch.float64)
    checkers_HW[::2] *= -1
    images_BCHW = checkers_HW.expand(shape_BCHW)
    images_BCHW = images_BCHW - images_BCHW.mean(dim=(-2, -1), keepdim=True)
    return 1 - step("erase", images_BCHW, target=area) / images_BCHW


def test_erase_fills_with_the_mean_colour() -> None:
    images_BCHW = structured_images((8, 3, 16, 16), seed=0)
    erased_BCHW = step("erase", images_BCHW, target=0.9)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True).expand_as(images_BCHW)
    filled_BCHW = (erased_BCHW - mean_BC11).abs() < 1e-6
    assert float(filled_BCHW.float().mean()) > 0.75


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


def test_rotation_steps_add_variances() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("rotate", images_BCHW, source=6.0, target=10.0)
    torch.testing.assert_close(stepped_BCHW, step("rotate", images_BCHW, target=8.0))


def test_rotation_angles_have_the_stated_spread() -> None:
    draw = get_op("rotate").draw((20_000, 1, 8, 8), generator=torch.Generator().manual_seed(0), device=CPU)
    assert float(draw["angle_B"].std()) == pytest.approx(1, rel=0.03)
    assert float(draw["angle_B"].mean()) == pytest.approx(0, abs=0.03)


class Nothing(Op):
    """An op that could be registered."""

    name = "contrast"
    magnitude_name = "amount"
    unit = "none"
    low = 0.1
    high = 1.0
    deterministic = exact = monotone = True

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        return {}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        return images_BCHW


def test_registering_refuses_a_taken_name() -> None:
    with pytest.raises(PolicyError, match=r"'contrast' is already registered by Contrast"):
        register(Nothing)
    assert type(get_op("contrast")) is not Nothing


@pytest.mark.parametrize("name", ["", "Blur", "9lives", "a.b", "x" * 41])
def test_registering_refuses_malformed_names(name: str) -> None:
    with pytest.raises(PolicyError, match="an op's name must be"):
        register(type("Named", (Nothing,), {"name": name}))


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (1.0, 1.0), (0.1, math.inf), (math.nan, 1.0)])
def test_registering_refuses_bounds_out_of_order(low: float, high: float) -> None:
    with pytest.raises(PolicyError, match="low < high must hold"):
        register(type("Bounded", (Nothing,), {"name": "bounded", "low": low, "high": high}))


def test_an_unknown_op_is_met_with_the_nearest_one() -> None:
    with pytest.raises(PolicyError, match="Did you mean 'gaussian_blur'"):
        get_op("gausian_blur")
