import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autopv.errors import DataError, PolicyError
from autopv.policy import Layer, Policy
from autopv.policy.ops import base
from autopv.policy.ops.base import Draw, Op
from autopv.profile import PolicyProfile, profile_lines, profile_policy


def textured_images(*, num_images: int = 48, channels: int = 1, size_px: int = 32) -> Tensor:
    """Images with something in every band, less of it at high frequencies, and brightness of their own."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(num_images, channels, size_px, size_px, generator=generator)
    total = 0.05 * torch.randn(num_images, channels, 1, 1, generator=generator)
    for scale in (1, 2, 4, 8):
        coarse = torch.nn.functional.avg_pool2d(noise.roll(scale, 0), scale)
        total = total + 0.06 * torch.nn.functional.interpolate(coarse, size=(size_px, size_px)) * scale**0.5
    return ((0.5 + total).clamp(0, 1) * 255).round().to(torch.uint8)


def one_layer(op: str, magnitude: float, *, num_frames: int = 4, markov_order: int = 1, until: int = 0) -> Policy:
    layer = Layer(op=op, magnitude=magnitude, frames=(1, until or num_frames - 1))
    return Policy(num_frames=num_frames, markov_order=markov_order, layers=(layer,))


def profiled(policy: Policy, images_NCHW: Tensor | None = None, *, seed: int = 0) -> PolicyProfile:
    images_NCHW = textured_images() if images_NCHW is None else images_NCHW
    return profile_policy(policy, images_NCHW, seed=seed, with_features=False)


def test_blur_keeps_low_frequencies_and_loses_high_ones() -> None:
    first = profiled(one_layer("gaussian_blur", 0.08)).frames[0]
    assert first.kept[0] > 0.98
    assert first.kept[-1] < 0.1
    assert list(first.kept) == sorted(first.kept, reverse=True)


@pytest.mark.parametrize("op", ["gaussian_noise", "gaussian_blur"])
def test_frames_nearer_to_the_image_are_nearer_and_tell_more(op: str) -> None:
    frames = profiled(one_layer(op, 0.2)).frames
    assert [frame.frame for frame in frames] == [1, 2, 3]
    distances = [frame.pixel_distance for frame in frames]
    assert distances == sorted(distances, reverse=True)
    explained = [frame.alone for frame in frames]
    assert explained == sorted(explained)
    assert frames[-1].gain == 0
    assert frames[-1].joint == frames[-1].alone


@pytest.mark.slow
def test_a_frame_that_is_the_image_has_distance_0_and_tells_everything() -> None:
    images = textured_images()
    last = profile_policy(one_layer("gaussian_noise", 0.2, until=1), images, seed=0).frames[-1]
    assert last.pixel_distance == 0
    assert last.feature_distance == 0
    assert last.kept == pytest.approx([1] * 4)
    assert last.alone == pytest.approx(1, abs=1e-6)


def test_the_pixel_distance_of_noise_is_its_own_over_that_of_two_images() -> None:
    images = textured_images(num_images=40)
    frame = profiled(one_layer("gaussian_noise", 0.02, num_frames=2), images).frames[0]
    pixels = images.flatten(1).double() / 255
    apart = torch.pdist(pixels).square().mean().sqrt() / pixels.shape[1] ** 0.5
    assert frame.pixel_distance == pytest.approx(0.01 / float(apart), rel=0.03)


@pytest.mark.slow
def test_features_are_measured_unless_told_otherwise() -> None:
    policy = one_layer("gaussian_blur", 0.1, num_frames=3)
    measured = profile_policy(policy, textured_images(num_images=16), seed=0)
    distances = [frame.feature_distance or 0 for frame in measured.frames]
    assert min(distances) > 0.05
    assert measured.extractor == "lite0"
    without = profiled(policy)
    assert without.extractor is None
    assert without.frames[0].feature_distance is None


def test_a_seed_repeats_and_another_differs() -> None:
    policy, images = one_layer("gaussian_noise", 0.2), textured_images(num_images=200)
    assert profiled(policy, images) == profiled(policy, images)
    assert profiled(policy, images).frames != profiled(policy, images, seed=1).frames


def test_the_number_of_images_and_the_radius_are_obeyed() -> None:
    images = textured_images()
    policy = one_layer("gaussian_noise", 0.2)
    assert profiled(policy, images).num_images == 48
    small = profile_policy(policy, images, num_images=20, radius=0, with_features=False)
    assert (small.num_images, small.radius) == (20, 0)
    assert small.frames[0].alone < profiled(policy, images).frames[0].alone - 0.05


@pytest.mark.parametrize(("channels", "size_px"), [(1, 8), (3, 8), (3, 40)])
def test_grey_and_colour_of_any_size(channels: int, size_px: int) -> None:
    images = textured_images(num_images=16, channels=channels, size_px=size_px)
    result = profiled(one_layer("gaussian_noise", 0.2), images)
    assert (result.channels, result.height_px, result.width_px) == (channels, size_px, size_px)
    assert all(-0.5 < frame.alone < 1 for frame in result.frames)


def test_only_a_chain_without_coins_and_looking_back_is_first_order() -> None:
    chain = one_layer("gaussian_noise", 0.2)
    assert profiled(chain).first_order
    assert not profiled(replace(chain, markov_order=3)).first_order
    assert not profiled(replace(chain, layers=(replace(chain.layers[0], probability=0.5),))).first_order
    # A blur composes exactly and draws nothing: its order does not matter.
    assert profiled(one_layer("gaussian_blur", 0.1, markov_order=3)).first_order


def test_the_dict_is_json_and_complete() -> None:
    result = profiled(one_layer("gaussian_noise", 0.2))
    values = json.loads(json.dumps(result.to_dict()))
    assert values == result.to_dict()
    assert values["policy_digest"] == one_layer("gaussian_noise", 0.2).digest
    assert values["frames"][2]["alone"] == result.frames[2].alone
    assert "examples_BTCHW" not in values


def test_the_examples_are_videos_that_end_with_their_image() -> None:
    images = textured_images()
    examples = profiled(one_layer("gaussian_noise", 0.2), images).examples_BTCHW
    assert examples.shape == (3, 4, 1, 32, 32)
    assert all(any(torch.equal(video[-1], image) for image in images) for video in examples)


def test_the_table_says_what_the_early_frames_add() -> None:
    star = profile_lines(profiled(one_layer("gaussian_noise", 0.2, markov_order=3)))
    assert len({len(line) for line in star[2:6]}) == 1
    assert "of what it leaves open" in star[-1]
    assert "nothing that this probe can see" in profile_lines(profiled(one_layer("gaussian_noise", 0.1)))[-1]
    assert "no information" in profile_lines(profiled(one_layer("gaussian_blur", 0.1)))[-1]
    assert "adds" not in profile_lines(profiled(one_layer("gaussian_noise", 0.2, num_frames=2)))[-1]


class TellingOp(Op):
    """Remembers what it is given, and darkens."""

    name = "telling"
    magnitude_name = "share"
    unit = "share"
    low, high = 0.01, 1.0
    deterministic, exact, monotone = True, False, True
    group = "mixture"
    built_on = "torch: a test"

    def __init__(self, needs: str) -> None:
        self.needs = frozenset({needs})  # type: ignore[misc]
        self.seen: list[Tensor] = []

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        return {}

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        given = masks_BHW if "masks" in self.needs else donors_NCHW
        assert given is not None
        self.seen += [images_BCHW, given]
        return {}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        return images_BCHW * (1 - (target - source))


def telling(monkeypatch: pytest.MonkeyPatch, needs: str) -> tuple[TellingOp, Policy]:
    op = TellingOp(needs)
    monkeypatch.setitem(base._REGISTRY, op.name, op)
    return op, one_layer("telling", 0.5, num_frames=2)


def test_donors_are_never_images_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    op, policy = telling(monkeypatch, "donors")
    assert profiled(policy, textured_images(num_images=40)).num_images == 30
    sample = {image.numpy().tobytes() for images in op.seen[::2] for image in images}
    donors = {image.numpy().tobytes() for image in op.seen[1]}
    assert (len(sample), len(donors)) == (30, 10)
    assert not sample & donors


def test_masks_go_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    op, policy = telling(monkeypatch, "masks")
    images = textured_images()
    profile_policy(policy, images, masks_NHW=images[:, 0] > 128, num_images=32, with_features=False)
    assert torch.equal((op.seen[0][:, 0] * 255).round() > 128, op.seen[1])
    with pytest.raises(PolicyError, match="masks"):
        profiled(policy, images)
    with pytest.raises(DataError, match=r"one per image \(48\), but got 3"):
        profile_policy(policy, images, masks_NHW=torch.zeros(3, 32, 32, dtype=torch.bool))


def test_image_only_training_has_nothing_to_profile() -> None:
    with pytest.raises(PolicyError, match="image-only"):
        profiled(Policy.image_only())


@pytest.mark.parametrize(
    ("images", "num_images", "message"),
    [
        (textured_images(num_images=15), 128, "at least 16 images, but got 15"),
        (textured_images(), 8, "at least 16 images, but got 8"),
        (textured_images()[..., :4], 128, "at least 8 px"),
        (textured_images().float(), 128, "uint8"),
        (textured_images(num_images=1).repeat(20, 1, 1, 1), 128, "all the same"),
    ],
)
def test_images_that_say_nothing_are_refused(images: Tensor, num_images: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        profile_policy(one_layer("gaussian_noise", 0.2), images, num_images=num_images, with_features=False)


def test_more_frames_than_memory_is_meant_for_are_refused() -> None:
    images = torch.zeros(1, 3, 256, 256, dtype=torch.uint8).expand(2000, -1, -1, -1)
    with pytest.raises(DataError, match="take fewer images"):
        profile_policy(one_layer("gaussian_noise", 0.2), images, num_images=2000, with_features=False)


def test_a_radius_out_of_bounds_is_refused() -> None:
    with pytest.raises(DataError, match="radius=3"):
        profile_policy(one_layer("gaussian_noise", 0.2), textured_images(), radius=3)
