"""What the probe sees of Markov orders, against the theory of independent views and of chains."""

import pytest
import torch
from torch import Tensor

from autopv.data.tensors import to_float
from autopv.errors import DataError
from autopv.policy import Layer, Policy
from autopv.profile import PolicyProfile, profile_policy
from autopv.profile.probe import fitting_radius, probe

SIZE_PX = 32
NOISE = 0.06
"""Of the most corrupted frame, per pixel: four times that stays inside [0, 1] around [0.4, 0.6]."""


def white_images(*, num_images: int = 96, channels: int = 1, low: int = 102, high: int = 153) -> Tensor:
    """Independent pixels, uniform in 8-bit values [low, high]."""
    shape = (num_images, channels, SIZE_PX, SIZE_PX)
    return torch.randint(low, high + 1, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def smooth_images(*, num_images: int = 96) -> Tensor:
    """Pixels that their neighbours tell of, within [0.3, 0.7]."""
    noise = torch.randn(num_images, 1, SIZE_PX + 4, SIZE_PX + 4, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1)
    return ((0.5 + smooth / smooth.abs().max() * 0.2) * 255).round().to(torch.uint8)


def noise(*, num_frames: int, markov_order: int) -> Policy:
    layer = Layer(op="gaussian_noise", magnitude=NOISE * 64 / SIZE_PX, frames=(1, num_frames - 1))
    return Policy(num_frames=num_frames, markov_order=markov_order, layers=(layer,))


def profiled(policy: Policy, images_NCHW: Tensor) -> PolicyProfile:
    return profile_policy(policy, images_NCHW, seed=0, with_features=False)


def noise_variances(num_frames: int) -> list[float]:
    """Of frames 1..T-1 under the linear curve; rounding adds the variance of a uniform error."""
    shares = [(num_frames - t) / (num_frames - 1) for t in range(1, num_frames)]
    return [(NOISE * share) ** 2 + 1 / 255**2 / 12 for share in shares]


def image_variance(images_NCHW: Tensor) -> float:
    return float(to_float(images_NCHW).var(dim=(-2, -1)).mean())


def test_one_noisy_frame_of_white_images_explains_what_the_closed_form_says() -> None:
    images = white_images()
    variance = image_variance(images)
    frames = profiled(noise(num_frames=4, markov_order=1), images).frames
    for frame, added in zip(frames, noise_variances(4), strict=True):
        assert frame.alone_se < 0.003
        assert frame.alone == pytest.approx(variance / (variance + added), abs=4 * frame.alone_se)


@pytest.mark.parametrize("num_frames", [3, 5])
def test_in_a_star_the_frames_together_explain_what_averaging_independent_copies_does(num_frames: int) -> None:
    images = white_images()
    variance, added = image_variance(images), noise_variances(num_frames)
    profile = profiled(noise(num_frames=num_frames, markov_order=num_frames - 1), images)
    for t, frame in enumerate(profile.frames):
        averaged = 1 / sum(1 / each for each in added[t:])
        assert frame.joint == pytest.approx(variance / (variance + averaged), abs=0.004)
    first = profile.frames[0]
    assert first.gain > 0.005
    assert first.gain > 10 * first.gain_se
    assert profile.together == first.joint


@pytest.mark.parametrize("num_frames", [3, 5])
@pytest.mark.parametrize("images", [white_images(), smooth_images()], ids=["white", "smooth"])
def test_in_a_chain_earlier_frames_add_nothing_to_the_last(num_frames: int, images: Tensor) -> None:
    for frame in profiled(noise(num_frames=num_frames, markov_order=1), images).frames:
        assert abs(frame.gain) < 0.001


def test_smooth_images_gain_in_a_star_too() -> None:
    first = profiled(noise(num_frames=5, markov_order=4), smooth_images()).frames[0]
    assert first.gain > 0.005
    assert first.gain > 10 * first.gain_se


def test_of_two_interleaved_chains_the_two_frames_made_from_the_image_tell_all() -> None:
    # Order 2 of 5 frames: 4 and 3 come from the image, 2 from 4 and 1 from 3.
    frames = profiled(noise(num_frames=5, markov_order=2), white_images()).frames
    assert frames[2].gain > 0.005
    assert frames[0].gain == pytest.approx(frames[2].gain, abs=0.001)


def test_frames_of_equal_strength_add_most_in_a_star_and_are_copies_in_a_chain() -> None:
    layer = Layer(op="gaussian_noise", magnitude=NOISE * 64 / SIZE_PX, frames=(4, 4))
    images = white_images()
    variance = image_variance(images)
    star = profiled(Policy(num_frames=5, markov_order=4, layers=(layer,)), images).frames[0]
    assert star.joint == pytest.approx(variance / (variance + NOISE**2 / 4), abs=0.01)
    chain = profiled(Policy(num_frames=5, markov_order=1, layers=(layer,)), images).frames[0]
    assert abs(chain.gain) < 1e-4


def test_channels_are_explained_by_their_own_noisy_copies() -> None:
    images = white_images(channels=3, num_images=64)
    variance, added = image_variance(images), noise_variances(3)
    frames = profiled(noise(num_frames=3, markov_order=2), images).frames
    assert frames[1].alone == pytest.approx(variance / (variance + added[1]), abs=0.005)
    assert frames[0].joint == pytest.approx(variance / (variance + 1 / (1 / added[0] + 1 / added[1])), abs=0.005)


def test_an_affine_copy_explains_everything_and_noise_or_a_constant_nothing() -> None:
    images = white_images()
    frames_NTCHW = torch.stack([torch.full_like(images, 128), white_images().flip(0), images // 2 * 2 - 50], dim=1)
    probed = probe(images, frames_NTCHW, radius=1, generator=torch.Generator().manual_seed(0))
    assert probed.alone_T.tolist() == pytest.approx([0, 0, 1], abs=0.002)


def test_the_window_sees_a_shift_up_to_its_radius() -> None:
    images = white_images()
    frames_NTCHW = images.roll(2, dims=-1)[:, None]
    explained = [
        float(probe(images, frames_NTCHW, radius=r, generator=torch.Generator().manual_seed(0)).alone_T) for r in (1, 2)
    ]
    # Two columns wrapped around are unrelated: the best weight is the share of the others, s, and explains s^2.
    assert explained == pytest.approx([0, (1 - 2 / SIZE_PX) ** 2], abs=0.01)


def test_the_standard_error_is_the_spread_over_samples_of_images() -> None:
    policy, images = noise(num_frames=3, markov_order=2), smooth_images(num_images=1024)
    several = [
        profile_policy(policy, images[i : i + 32], seed=i, with_features=False, radius=1).frames[0]
        for i in range(0, 1024, 32)
    ]
    for value, error in (("alone", "alone_se"), ("gain", "gain_se")):
        spread = float(torch.tensor([getattr(frame, value) for frame in several]).std())
        stated = float(torch.tensor([getattr(frame, error) for frame in several]).mean())
        assert spread / 1.5 < stated < spread * 1.5


def test_the_window_shrinks_where_data_are_few_or_frames_many() -> None:
    assert fitting_radius((128, 5, 1, 64, 64)) == 2
    assert fitting_radius((128, 15, 3, 64, 64)) == 1
    assert fitting_radius((128, 63, 3, 64, 64)) == 0
    assert fitting_radius((16, 5, 3, 8, 8)) == 0


def test_flat_images_are_refused() -> None:
    flat = torch.arange(100, 132, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, SIZE_PX, SIZE_PX).contiguous()
    with pytest.raises(DataError, match="not flat"):
        profiled(noise(num_frames=3, markov_order=1), flat)
