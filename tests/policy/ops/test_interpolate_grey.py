import torch
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestInterpolateGrey(OpSuite):
    op = "interpolate_grey"


def test_interpolate_grey_is_the_weighted_mean_with_mid_grey() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0).double()
    torch.testing.assert_close(towards_grey(images_BCHW, target=0.75), 0.25 * images_BCHW + 0.75 * 0.5)
    assert torch.equal(towards_grey(images_BCHW, target=1.0), torch.full_like(images_BCHW, 0.5))


def test_kept_shares_multiply() -> None:
    images_BCHW = structured_images((2, 3, 16, 16), seed=0).double()
    stepped_BCHW = towards_grey(towards_grey(images_BCHW, target=0.2), source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, towards_grey(images_BCHW, target=0.6))


def towards_grey(images_BCHW: Tensor, *, target: float, source: float = 0.0) -> Tensor:
    op = get_op("interpolate_grey")
    prepared = op.prepare(images_BCHW, masks_BHW=None, donors_NCHW=None)
    return op.corrupt(images_BCHW, prepared, source=source, target=target)
