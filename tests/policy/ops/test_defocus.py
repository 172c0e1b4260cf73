import math

import numpy as np
import pytest
import scipy.ndimage
import scipy.special
import torch
from numpy.typing import NDArray
from op_cases import CPU, step

from autopv.policy.ops.defocus import disc_spectrum
from autopv.testing.op_suite import OpSuite, structured_images


class TestDefocus(OpSuite):
    op = "defocus"


@pytest.mark.parametrize("shape_BCHW", [(2, 1, 64, 64), (1, 3, 33, 48)])
@pytest.mark.parametrize("radius_px", [2.5, 6.3])
def test_defocus_is_scipys_convolution_with_a_disc(shape_BCHW: tuple[int, int, int, int], radius_px: float) -> None:
    side_px = min(shape_BCHW[-2:])
    # Without the finest waves: the pixels of the compared kernel would blur them once more.
    images_BCHW = step("gaussian_blur", structured_images(shape_BCHW, seed=0).double(), target=1.5 / side_px)
    kernel = disc_kernel(radius_px)[None, None]
    expected_BCHW = torch.from_numpy(scipy.ndimage.convolve(images_BCHW.numpy(), kernel, mode="reflect"))
    blurred_BCHW = step("defocus", images_BCHW, target=radius_px / side_px)
    change = float((expected_BCHW - images_BCHW).abs().mean())
    assert float((blurred_BCHW - expected_BCHW).abs().mean()) < 0.03 * change


def disc_kernel(radius_px: float) -> NDArray[np.float64]:
    """The share of every pixel's area that the disc covers, from 16 x 16 points in each."""
    reach = math.ceil(radius_px)
    fine = (np.arange((2 * reach + 1) * 16) + 0.5) / 16 - reach - 0.5
    inside = (np.hypot(fine[:, None], fine) < radius_px).astype(float)
    kernel: NDArray[np.float64] = inside.reshape(2 * reach + 1, 16, 2 * reach + 1, 16).mean(axis=(1, 3))
    return kernel / kernel.sum()


def test_a_wave_keeps_the_transfer_of_a_disc_and_some_are_inverted() -> None:
    rows_H, columns_W = (torch.arange(size, dtype=torch.float64) + 0.5 for size in (24, 40))
    images_BCHW = (torch.cos(math.pi * 5 * rows_H / 24)[:, None] * torch.cos(math.pi * 3 * columns_W / 40))[None, None]
    for radius, sign in ((0.1, 1), (0.3, -1)):
        phase = 2 * math.pi * radius * 24 * math.hypot(5 / 48, 3 / 80)
        factor = 2 * scipy.special.j1(phase) / phase
        assert factor * sign > 0
        torch.testing.assert_close(step("defocus", images_BCHW, target=radius), images_BCHW * factor, atol=1e-6, rtol=0)


def test_defocus_keeps_the_mean() -> None:
    images_BCHW = structured_images((2, 3, 16, 24), seed=0).double()
    blurred_BCHW = step("defocus", images_BCHW, target=0.3)
    torch.testing.assert_close(blurred_BCHW.mean(dim=(-2, -1)), images_BCHW.mean(dim=(-2, -1)))


def test_a_step_adds_the_second_moment_that_is_missing() -> None:
    images_BCHW = structured_images((2, 1, 32, 32), seed=0)
    stepped_BCHW = step("defocus", images_BCHW, source=0.06, target=0.1)
    torch.testing.assert_close(stepped_BCHW, step("defocus", images_BCHW, target=0.08))


@pytest.mark.parametrize("radius_px", [0.05, 3.0, 40.0])
def test_the_mean_passes_and_nothing_is_amplified(radius_px: float) -> None:
    kept_HW = disc_spectrum(16, 24, radius_px=radius_px, dtype=torch.float64, device=CPU)
    assert float(kept_HW[0, 0]) == 1
    assert float(kept_HW.abs().max()) == 1
