import numpy as np
import pytest
import scipy.ndimage
import torch
from op_cases import step
from torch import Tensor

from autopv.testing.op_suite import OpSuite, structured_images


class TestMedian(OpSuite):
    op = "median"
    least_change = 0.03  # the suite's images are smooth, and a median keeps what is


def scipy_median(images_BCHW: Tensor, *, spacing: int) -> Tensor:
    """Medians of three pixels `spacing` apart, down the columns and then along the rows."""
    taps = np.zeros(2 * spacing + 1, dtype=bool)
    taps[[0, spacing, 2 * spacing]] = True
    filtered = images_BCHW.numpy()
    for footprint in (taps[:, None], taps[None, :]):
        filtered = scipy.ndimage.median_filter(filtered, footprint=footprint[None, None], mode="mirror")
    return torch.from_numpy(filtered)


@pytest.mark.parametrize("shape_BCHW", [(2, 3, 64, 64), (2, 1, 40, 33), (1, 2, 8, 20)])
def test_a_window_of_three_pixels_is_scipys_median_of_columns_then_rows(shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0)
    filtered_BCHW = step("median", images_BCHW, target=2 / min(shape_BCHW[-2:]))
    assert torch.equal(filtered_BCHW, scipy_median(images_BCHW, spacing=1))


def test_a_window_of_seven_pixels_adds_medians_of_spacing_two_and_one() -> None:
    images_BCHW = structured_images((2, 3, 64, 64), seed=0)
    expected_BCHW = images_BCHW
    for spacing in (1, 2, 1):
        expected_BCHW = scipy_median(expected_BCHW, spacing=spacing)
    assert torch.equal(step("median", images_BCHW, target=6 / 64), expected_BCHW)


def test_between_two_windows_both_are_blended() -> None:
    images_BCHW = structured_images((2, 1, 64, 64), seed=0)
    narrow_BCHW, middle_BCHW, wide_BCHW = (step("median", images_BCHW, target=px / 64) for px in (2, 3, 6))
    torch.testing.assert_close(middle_BCHW, torch.lerp(narrow_BCHW, wide_BCHW, 0.25))
    tiny_BCHW = step("median", images_BCHW, target=0.2 / 64)
    torch.testing.assert_close(tiny_BCHW, torch.lerp(images_BCHW, narrow_BCHW, 0.1))


def test_a_step_from_a_whole_window_takes_the_cascade_up() -> None:
    images_BCHW = structured_images((2, 1, 64, 64), seed=0)
    for target in (7 / 64, 0.2):
        stepped_BCHW = step("median", step("median", images_BCHW, target=6 / 64), source=6 / 64, target=target)
        assert torch.equal(stepped_BCHW, step("median", images_BCHW, target=target))


@pytest.mark.parametrize("side_px", [32, 64, 128])
def test_the_same_share_of_the_side_keeps_the_same_things_at_every_size(side_px: int) -> None:
    """Squares on black: what is a sixth of the window goes, and the edges of large things stay."""
    images_BCHW = torch.zeros(1, 1, side_px, side_px)
    for square in (slice(side_px // 8, side_px // 8 + side_px // 32), slice(side_px // 2, side_px * 7 // 8)):
        images_BCHW[..., square, square] = 1
    filtered_BCHW = step("median", images_BCHW, target=0.1875)
    assert float(filtered_BCHW[..., : side_px // 3, : side_px // 3].abs().max()) == 0
    middle_N = filtered_BCHW[0, 0, 3 * side_px // 4]
    torch.testing.assert_close(middle_N, images_BCHW[0, 0, 3 * side_px // 4])


@pytest.mark.parametrize("window_px", [3, 7, 15])
def test_the_cascade_comes_near_to_the_full_median(window_px: int) -> None:
    images_BCHW = structured_images((4, 1, 64, 64), seed=0)
    size = (1, 1, window_px, window_px)
    full_BCHW = torch.from_numpy(scipy.ndimage.median_filter(images_BCHW.numpy(), size=size, mode="mirror"))
    filtered_BCHW = step("median", images_BCHW, target=(window_px - 1) / 64)
    error = float((filtered_BCHW - full_BCHW).square().mean())
    assert error < 0.35 * float((images_BCHW - full_BCHW).square().mean())
