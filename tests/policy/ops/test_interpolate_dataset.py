import torch
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestInterpolateDataset(OpSuite):
    op = "interpolate_dataset"


def test_interpolate_dataset_is_the_weighted_mean_with_the_donors_mean_image() -> None:
    images_BCHW, donors_NCHW = bank(2, seed=0), bank(7, seed=1)
    mean_1CHW = donors_NCHW.sum(dim=0, keepdim=True) / 7
    mixed_BCHW = towards_donors(images_BCHW, donors_NCHW, target=0.75)
    torch.testing.assert_close(mixed_BCHW, 0.25 * images_BCHW + 0.75 * mean_1CHW)


def test_a_whole_bank_has_one_most_corrupted_frame_in_which_nothing_of_an_image_is_left() -> None:
    last_BCHW = towards_donors(bank(4, seed=0), bank(7, seed=1), target=1.0)
    assert torch.equal(last_BCHW, last_BCHW[:1].expand_as(last_BCHW))


def test_kept_shares_multiply() -> None:
    images_BCHW, donors_NCHW = bank(2, seed=0), bank(7, seed=1)
    stepped_BCHW = towards_donors(images_BCHW, donors_NCHW, target=0.2)
    stepped_BCHW = towards_donors(stepped_BCHW, donors_NCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, towards_donors(images_BCHW, donors_NCHW, target=0.6))


def bank(num_images: int, *, seed: int) -> Tensor:
    return structured_images((num_images, 3, 16, 16), seed=seed).double()


def towards_donors(images_BCHW: Tensor, donors_NCHW: Tensor, *, target: float, source: float = 0.0) -> Tensor:
    op = get_op("interpolate_dataset")
    prepared = op.prepare(images_BCHW, masks_BHW=None, donors_NCHW=donors_NCHW)
    return op.corrupt(images_BCHW, prepared, source=source, target=target)
