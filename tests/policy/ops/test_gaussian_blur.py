import pytest
import scipy.ndimage
import torch
from op_cases import CPU, step

from autopv.policy.ops.gaussian_blur import blur_matrix
from autopv.testing.op_suite import OpSuite, structured_images


class TestGaussianBlur(OpSuite):
    op = "gaussian_blur"


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
