import torch
from op_cases import step

from autopv.testing.op_suite import OpSuite, structured_images


class TestContrast(OpSuite):
    op = "contrast"


def test_contrast_scales_deviations_and_keeps_the_mean() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0).double()
    flat_BCHW = step("contrast", images_BCHW, target=0.75)
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    torch.testing.assert_close(flat_BCHW - mean_BC11, 0.25 * (images_BCHW - mean_BC11))
    assert torch.equal(step("contrast", flat_BCHW, source=1.0, target=1.0), flat_BCHW)
    torch.testing.assert_close(step("contrast", images_BCHW, target=1.0), mean_BC11.expand_as(images_BCHW))
