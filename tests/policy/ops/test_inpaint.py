import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from autopv.policy.ops.inpaint import inpaint
from autopv.testing.op_suite import defect_masks, structured_images

SHAPES_HW = [(8, 8), (33, 48), (64, 8), (64, 64)]


def masked(shape_HW: tuple[int, int]) -> tuple[Tensor, Tensor]:
    masks_BHW = defect_masks((7, *shape_HW))
    masks_BHW[3] = torch.rand(shape_HW, generator=torch.Generator().manual_seed(0)) < 0.8
    return structured_images((7, 1, *shape_HW), seed=0).double(), masks_BHW[:, None]


@pytest.mark.parametrize("shape_HW", SHAPES_HW)
def test_the_filling_converges_to_a_direct_solution_of_laplaces_equation(shape_HW: tuple[int, int]) -> None:
    images_BCHW, unknown_B1HW = masked(shape_HW)
    expected_BCHW = torch.stack([solved(*pair) for pair in zip(images_BCHW[:, 0], unknown_B1HW[:, 0], strict=True)])
    for num_cycles, largest, typical in ((0, 0.3, 0.05), (2, 0.15, 0.02), (60, 2e-3, 1e-4)):
        error_BHW = (inpaint(images_BCHW, unknown_B1HW, num_cycles=num_cycles)[:, 0] - expected_BCHW).abs()
        assert float(error_BHW.max()) < largest
        assert float(error_BHW.mean()) < typical


def solved(image_HW: Tensor, unknown_HW: Tensor) -> Tensor:
    """Every unknown pixel the mean of its four neighbours, a pixel at the border its own neighbour beyond it."""
    sums = []
    for size in image_HW.shape:
        line = scipy.sparse.diags([np.ones(size - 1), np.ones(size - 1)], [-1, 1]).tolil()
        line[0, 0] = line[size - 1, size - 1] = 1
        sums.append(line.tocsr())
    height, width = image_HW.shape
    neighbours = scipy.sparse.kron(sums[0], np.eye(width)) + scipy.sparse.kron(np.eye(height), sums[1])
    laplacian = (scipy.sparse.eye(height * width) - neighbours / 4).tocsr()
    values, unknown = image_HW.flatten().numpy().copy(), unknown_HW.flatten().numpy()
    if unknown.any():
        known_part = laplacian[unknown][:, ~unknown] @ values[~unknown]
        values[unknown] = scipy.sparse.linalg.spsolve(laplacian[unknown][:, unknown].tocsc(), -known_part)
    return torch.from_numpy(values).view(height, width)


@pytest.mark.parametrize("shape_HW", SHAPES_HW)
def test_a_harmonic_function_is_reproduced(shape_HW: tuple[int, int]) -> None:
    height, width = shape_HW
    y, x = torch.meshgrid(torch.arange(height) - height / 2, torch.arange(width) - width / 2, indexing="ij")
    half_px = max(height, width) / 2
    images_BCHW = 0.5 + 0.3 * torch.stack([x + y, (x**2 - y**2) / half_px])[:, None] / half_px
    unknown_HW = torch.zeros(shape_HW, dtype=torch.bool)
    unknown_HW[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    filled_BCHW = inpaint(images_BCHW, unknown_HW.expand(2, 1, -1, -1))
    assert float((filled_BCHW - images_BCHW).abs().max()) < 0.02


def test_known_pixels_stay_bit_for_bit_and_unknown_ones_count_for_nothing() -> None:
    images_BCHW, unknown_B1HW = masked((33, 48))
    filled_BCHW = inpaint(images_BCHW, unknown_B1HW)
    assert torch.equal(filled_BCHW[~unknown_B1HW], images_BCHW[~unknown_B1HW])
    assert torch.equal(filled_BCHW[6], images_BCHW[6])  # the one whose mask is empty
    other_BCHW = torch.where(unknown_B1HW, 1 - images_BCHW, images_BCHW)
    torch.testing.assert_close(inpaint(other_BCHW, unknown_B1HW), filled_BCHW)


def test_an_image_without_a_known_pixel_is_filled_with_its_mean() -> None:
    images_BCHW, _ = masked((16, 24))
    filled_BCHW = inpaint(images_BCHW, torch.ones(7, 1, 16, 24, dtype=torch.bool))
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(filled_BCHW, mean_BC11.expand_as(images_BCHW))
