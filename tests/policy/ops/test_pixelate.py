import pytest
import torch
from op_cases import step

from autopv.testing.op_suite import OpSuite, structured_images


class TestPixelate(OpSuite):
    op = "pixelate"


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
