"""The transform for torchvision: samples of any form keep it, images become videos whose last frame they are."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from autopv.errors import PolicyError
from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op, op_names
from autopv.policy.transform import PseudoVideo

POLICY = Policy(
    num_frames=4,
    layers=(
        Layer(op="gaussian_noise", magnitude=0.2, frames=(1, 3)),
        Layer(op="erase", magnitude=0.3, frames=(1, 2), probability=0.8),
    ),
)


def with_op_needing(need: str) -> Policy:
    """A policy of the first op that needs this, and nothing else, beside the image."""
    op = next(get_op(name) for name in op_names() if get_op(name).needs == {need})
    return Policy(num_frames=3, layers=(Layer(op=op.name, magnitude=op.high / 2, frames=(1, 2)),))


def every_byte(channels: int = 3) -> Tensor:
    """An image (channels, 16, 16) that holds all 256 values."""
    return torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(channels, 1, 1)


def seeded(transform: Callable[..., Any], *sample: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transform(*sample)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [(), (5,)], ids=["one", "batch"])
def test_the_last_frame_is_the_image_bit_for_bit(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    image = every_byte().expand(*batch, 3, 16, 16)
    image = image.clone() if dtype == torch.uint8 else image.to(dtype) / 255
    frames = PseudoVideo(POLICY)(image)
    assert type(frames) is tv_tensors.Video
    assert frames.shape == (*batch, 4, 3, 16, 16)
    assert frames.dtype == dtype
    assert torch.equal(frames[..., -1, :, :, :], image)
    assert not torch.equal(frames[..., 0, :, :, :], image)


def test_frames_are_those_of_the_policy_rounded() -> None:
    image = every_byte()
    frames_TCHW = seeded(PseudoVideo(POLICY), image)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    expected_BTCHW = POLICY.render(image[None].float() / 255, generator=generator) * 255
    assert (frames_TCHW.float() - expected_BTCHW[0]).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("kind", [tv_tensors.Image, v2.ToPILImage(), lambda image: image], ids=["tv", "PIL", "plain"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_image_gives_the_same_video(kind: Callable[[Tensor], Any], channels: int) -> None:
    image = every_byte(channels)
    frames_TCHW = seeded(PseudoVideo(POLICY), kind(image))
    assert type(frames_TCHW) is tv_tensors.Video
    assert torch.equal(frames_TCHW, seeded(PseudoVideo(POLICY), image))


def test_a_sample_keeps_its_form_and_everything_but_its_image() -> None:
    boxes = tv_tensors.BoundingBoxes([[1, 2, 5, 6]], format="XYXY", canvas_size=(16, 16))
    mask = tv_tensors.Mask(torch.eye(16, dtype=torch.uint8))
    numbers, clip = torch.rand(3, 16, 16), tv_tensors.Video(torch.rand(2, 3, 16, 16))
    sample = {"image": tv_tensors.Image(every_byte()), "target": [boxes, {"mask": mask}, (numbers, clip)], "label": 7}
    result = PseudoVideo(POLICY)(sample)
    assert result["image"].shape == (4, 3, 16, 16)
    assert result["target"][0] is boxes
    assert result["target"][1]["mask"] is mask
    assert result["target"][2][0] is numbers, "beside an explicit image, a plain tensor is no image"
    assert result["target"][2][1] is clip
    assert result["label"] == 7


def test_images_of_one_sample_share_the_draw() -> None:
    image = tv_tensors.Image(every_byte())
    first, second = PseudoVideo(POLICY)(image, image)
    assert torch.equal(first, second)


def test_images_of_one_batch_do_not() -> None:
    frames_BTCHW = PseudoVideo(POLICY)(every_byte().expand(2, -1, -1, -1))
    assert not torch.equal(frames_BTCHW[0], frames_BTCHW[1])


def test_the_seed_of_torch_repeats_the_video() -> None:
    transform, image = PseudoVideo(POLICY), every_byte()
    first = seeded(transform, image)
    assert torch.equal(seeded(transform, image), first)
    assert not torch.equal(transform(image), first), "the next one is another"
    assert not torch.equal(seeded(transform, image, seed=1), first)


def test_it_stands_in_a_pipeline_behind_other_transforms() -> None:
    """After a flip, the mask that the op sees is the flipped one."""
    policy = with_op_needing("masks")
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:20, 2:12] = 255
    pipeline = v2.Compose([v2.RandomHorizontalFlip(p=1.0), PseudoVideo(policy)])
    frames_TCHW, flipped, label = seeded(pipeline, image, tv_tensors.Mask(mask), 3)
    assert torch.equal(flipped, mask.flip(-1))
    assert label == 3
    assert torch.equal(frames_TCHW[-1], image.flip(-1))
    assert not torch.equal(frames_TCHW[0], image.flip(-1))
    alone = v2.Compose([v2.RandomHorizontalFlip(p=0.0), PseudoVideo(policy)])
    expected_TCHW, _ = seeded(alone, tv_tensors.Image(image.flip(-1)), tv_tensors.Mask(mask.flip(-1)))
    assert torch.equal(frames_TCHW, expected_TCHW)


def test_masks_of_any_form_say_where_the_defect_is() -> None:
    transform = PseudoVideo(with_op_needing("masks"))
    image = tv_tensors.Image(torch.rand(3, 32, 32))
    mask_HW = torch.zeros(32, 32, dtype=torch.bool)
    mask_HW[8:20, 2:12] = True
    parts_NHW = torch.zeros(2, 32, 32, dtype=torch.uint8)
    parts_NHW[0, 8:20, 2:7] = 3
    parts_NHW[1, 8:20, 7:12] = 1
    expected_TCHW = seeded(transform, image, tv_tensors.Mask(mask_HW))[0]
    for mask in (mask_HW[None].float(), parts_NHW):
        assert torch.equal(seeded(transform, image, tv_tensors.Mask(mask))[0], expected_TCHW)
    images = tv_tensors.Image(image.repeat(2, 1, 1, 1))
    masks_BHW = torch.stack((mask_HW, torch.zeros_like(mask_HW)))
    frames_BTCHW = seeded(transform, images, tv_tensors.Mask(masks_BHW))[0]
    assert not torch.equal(frames_BTCHW[0, 0], image)
    masks_B1HW = tv_tensors.Mask(masks_BHW[:, None])
    assert torch.equal(seeded(transform, images, masks_B1HW)[0], frames_BTCHW)
    no_objects = tv_tensors.Mask(torch.zeros(0, 32, 32))
    none = tv_tensors.Mask(torch.zeros(32, 32))
    assert torch.equal(seeded(transform, image, no_objects)[0], seeded(transform, image, none)[0])


def test_donors_are_taken_from() -> None:
    policy = with_op_needing("donors")
    donors_NCHW = torch.full((4, 3, 16, 16), 255, dtype=torch.uint8)
    black = torch.zeros(3, 16, 16, dtype=torch.uint8)
    frames_TCHW = seeded(PseudoVideo(policy, donors=donors_NCHW), black)
    assert int(frames_TCHW[0].max()) > 100
    assert torch.equal(seeded(PseudoVideo(policy, donors=donors_NCHW / 255), black), frames_TCHW)


class Dataset(torch.utils.data.Dataset[Any]):
    """Eight equal images with labels, and transforms as torchvision's datasets apply them."""

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.transform(tv_tensors.Image(every_byte()), index)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # new Pythons warn where the parent has threads
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_collates_videos_that_differ(num_workers: int) -> None:
    data = Dataset(PseudoVideo(POLICY))
    context = "fork" if num_workers else None  # other ways would import torch anew in every worker
    loader = DataLoader(data, batch_size=4, num_workers=num_workers, multiprocessing_context=context)
    batches = seeded(list, loader)
    frames = torch.cat([frames_BTCHW for frames_BTCHW, _ in batches])
    assert frames.shape == (8, 4, 3, 16, 16)
    assert frames.dtype == torch.uint8
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(8))
    assert len({frame.numpy().tobytes() for frame in frames[:, 0]}) == 8, "each has a draw of its own, in every worker"
    again = seeded(list, loader)
    assert torch.equal(torch.cat([frames_BTCHW for frames_BTCHW, _ in again]), frames)


def test_it_is_made_from_a_file_and_survives_pickling(tmp_path: Path) -> None:
    POLICY.save(tmp_path / "policy.json")
    transform = pickle.loads(pickle.dumps(PseudoVideo(tmp_path / "policy.json")))
    assert transform.policy == POLICY
    assert torch.equal(seeded(transform, every_byte()), seeded(PseudoVideo(POLICY), every_byte()))
    assert repr(transform) == f"PseudoVideo({POLICY.describe()})"
    with pytest.raises(PolicyError, match="nothing there"):
        PseudoVideo(str(tmp_path / "another.json"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_images_stay_on_their_device() -> None:
    transform = PseudoVideo(with_op_needing("donors"), donors=torch.rand(2, 3, 16, 16))
    images = every_byte().expand(5, -1, -1, -1).cuda()
    frames_BTCHW = transform(images)
    assert frames_BTCHW.device == images.device
    assert torch.equal(frames_BTCHW[:, -1], images)
    masks = tv_tensors.Mask(torch.ones(5, 16, 16, device=images.device))
    frames_BTCHW, _ = PseudoVideo(with_op_needing("masks"))(images, masks)
    assert torch.equal(frames_BTCHW[:, -1], images)


def test_float_images_with_a_gradient_or_ringing_are_taken() -> None:
    image = torch.linspace(-0.1, 1.1, 256).reshape(1, 16, 16).requires_grad_()
    frames_TCHW = PseudoVideo(POLICY)(image)
    assert torch.equal(frames_TCHW[-1], image)
    assert not frames_TCHW.requires_grad


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(16, 16), r"\(C, H, W\), or \(B, C, H, W\) for a batch, got torch.float32 of \(16, 16\)"),
        (torch.zeros(3, 16, 16, dtype=torch.int32), "must be uint8 or float .* got torch.int32"),
        (torch.zeros(3, 16, 16, dtype=torch.bool), "must be uint8 or float .* got torch.bool"),
        (torch.randn(3, 16, 16), r"must lie in \[0, 1\], .* put PseudoVideo before v2.Normalize"),
        (torch.full((3, 16, 16), 255.0), r"must lie in \[0, 1\], got values from 255 to 255"),
        (torch.full((3, 16, 16), float("nan")), r"must lie in \[0, 1\], got values from nan"),
        (Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P"), "modes L, LA, RGB, RGBA, got P; convert"),
        (tv_tensors.Video(torch.rand(4, 3, 16, 16)), "must hold an image"),
        ({"label": 3}, "must hold an image"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        PseudoVideo(POLICY)(image)


def test_what_the_policy_needs_must_be_there() -> None:
    image = tv_tensors.Image(torch.rand(3, 16, 16))
    with pytest.raises(PolicyError, match=r"other images to take from \(donors=\): T=3"):
        PseudoVideo(with_op_needing("donors"))
    transform = PseudoVideo(with_op_needing("masks"))
    with pytest.raises(PolicyError, match=r"one tv_tensors.Mask beside the image, but has 0; the policy is T=3"):
        transform(image, torch.ones(16, 16))
    mask = tv_tensors.Mask(torch.ones(16, 16))
    with pytest.raises(PolicyError, match=r"one tv_tensors.Mask beside the image, but has 2"):
        transform(image, mask, mask)


@pytest.mark.parametrize("sizes", [(8, 16), (16,), (1, 1, 16, 16), (16, 8)], ids=str)
def test_a_mask_must_fit_its_image(sizes: tuple[int, ...]) -> None:
    transform = PseudoVideo(with_op_needing("masks"))
    with pytest.raises(PolicyError, match=r"image's size \(16, 16\), got one of \("):
        transform(tv_tensors.Image(torch.rand(3, 16, 16)), tv_tensors.Mask(torch.ones(sizes)))
    with pytest.raises(PolicyError, match=r"image's size \(2, 16, 16\), got one of \(3, 16, 16\)"):
        transform(tv_tensors.Image(torch.rand(2, 3, 16, 16)), tv_tensors.Mask(torch.ones(3, 16, 16)))


@pytest.mark.parametrize(
    "donors", [torch.rand(3, 16, 16), torch.rand(0, 3, 16, 16), torch.zeros(2, 3, 16, 16, dtype=torch.int64)]
)
def test_donors_must_be_images(donors: Tensor) -> None:
    with pytest.raises(PolicyError, match=r"donors must be images \(N, C, H, W\), N >= 1, uint8 or float, got"):
        PseudoVideo(POLICY, donors=donors)


def test_donors_must_fit_the_image() -> None:
    transform = PseudoVideo(with_op_needing("donors"), donors=torch.rand(2, 3, 8, 8))
    with pytest.raises(PolicyError, match=r"donors must be images \(N, 3, 16, 16\) like the others"):
        transform(torch.rand(3, 16, 16))
