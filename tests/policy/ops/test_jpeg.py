import io

import numpy as np
import pytest
import scipy.fft
import torch
from op_cases import step
from PIL import Image
from torch import Tensor

from autopv.policy.ops.jpeg import LUMA_TABLE
from autopv.testing.op_suite import OpSuite, structured_images


class TestJpeg(OpSuite):
    op = "jpeg"


def coarseness(quality: int) -> float:
    """The magnitude of a quality in the usual terms (those of the Independent JPEG Group)."""
    return 50 / quality if quality < 50 else 2 - quality / 50


def codec(images_BCHW: Tensor, *, quality: int) -> Tensor:
    """The images (8-bit values) through the real codec; colour in 4:2:0."""
    decoded = []
    for image_CHW in images_BCHW:
        pixels_HWC = (image_CHW * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        picture = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[2] == 1 else pixels_HWC)
        picture.save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
        pixels_HWC = np.asarray(Image.open(buffer)).reshape(pixels_HWC.shape)
        decoded.append(torch.from_numpy(pixels_HWC.copy()).permute(2, 0, 1) / 255)
    return torch.stack(decoded)


@pytest.mark.parametrize("quality", [90, 75, 50, 25, 10, 5])
@pytest.mark.parametrize("shape_BCHW", [(4, 1, 64, 64), (4, 3, 64, 64), (2, 1, 33, 50), (2, 3, 33, 50)])
def test_jpeg_comes_near_to_the_real_codec(shape_BCHW: tuple[int, int, int, int], quality: int) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0).mul(255).round() / 255
    expected_BCHW = codec(images_BCHW, quality=quality)
    coded_BCHW = step("jpeg", images_BCHW, target=coarseness(quality)).clamp(0, 1)
    error = float((coded_BCHW - expected_BCHW).abs().mean())
    assert error < 2 / 255  # the codec rounds its tables, chroma and pixels to whole grey levels
    assert error < 0.35 * float((images_BCHW - expected_BCHW).abs().mean())


def test_every_coefficient_of_a_block_becomes_a_whole_number_of_steps() -> None:
    images_BCHW = structured_images((2, 1, 24, 40), seed=0).double()
    coded_BCHW = step("jpeg", images_BCHW, target=0.5)
    blocks_N88 = coded_BCHW.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 8, 8).numpy() * 255 - 128
    coefficients_N88 = scipy.fft.dctn(blocks_N88, axes=(1, 2), norm="ortho")
    steps_N88 = coefficients_N88 / (0.5 * np.array(LUMA_TABLE))
    np.testing.assert_allclose(steps_N88, steps_N88.round(), atol=1e-9)


def test_saving_grey_images_again_at_the_same_quality_loses_nothing() -> None:
    images_BCHW = structured_images((2, 1, 24, 40), seed=0).double()
    once_BCHW = step("jpeg", images_BCHW, target=2.0)
    torch.testing.assert_close(step("jpeg", once_BCHW, source=1.0, target=2.0), once_BCHW)


def test_small_magnitudes_tend_to_the_image_in_colour_too() -> None:
    images_BCHW = structured_images((2, 3, 33, 50), seed=0)
    for target in (1e-4, 1e-3, 1e-2):
        change_BCHW = (step("jpeg", images_BCHW, target=target) - images_BCHW).abs()
        assert float(change_BCHW.mean()) < 2 * target


def test_channels_that_are_not_colours_are_coded_like_single_ones() -> None:
    images_BCHW = structured_images((2, 4, 33, 50), seed=0)
    coded_BCHW = step("jpeg", images_BCHW, target=1.0)
    for i in range(4):
        alone_BCHW = step("jpeg", images_BCHW[:, i : i + 1], target=1.0)
        torch.testing.assert_close(coded_BCHW[:, i : i + 1], alone_BCHW, atol=1e-5, rtol=0)


def test_a_flat_colour_keeps_its_hue_but_for_one_step() -> None:
    images_BCHW = torch.tensor([0.8, 0.4, 0.2])[:, None, None].expand(1, 3, 20, 20)
    coded_BCHW = step("jpeg", images_BCHW, target=0.5)
    assert float(coded_BCHW.std(dim=(-2, -1)).max()) < 1e-5
    torch.testing.assert_close(coded_BCHW, images_BCHW, atol=2 / 255, rtol=0)
