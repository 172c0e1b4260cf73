from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from autopv.policy import Layer, Policy
from autopv.profile import PolicyProfile, draw_profile, profile_policy


def profiled(*, num_frames: int, size_px: int = 32, channels: int = 1) -> PolicyProfile:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(60, 200, (20, channels, size_px, size_px), dtype=torch.uint8, generator=generator)
    layer = Layer(op="gaussian_noise", magnitude=0.2, frames=(1, num_frames - 1))
    policy = Policy(num_frames=num_frames, markov_order=num_frames - 1, layers=(layer,))
    return profile_policy(policy, images, with_features=False)


def drawn(profile: PolicyProfile, path: Path) -> NDArray[np.uint8]:
    draw_profile(profile, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture)


@pytest.mark.parametrize(
    ("num_frames", "size_px", "width"),
    # Margins of 60 and 190; columns of at most 140, at least 24, else 840 together.
    [(2, 8, 250 + 2 * 140), (6, 32, 250 + 840), (12, 128, 250 + 840), (64, 32, 250 + 64 * 24)],
)
def test_the_columns_share_the_width(tmp_path: Path, num_frames: int, size_px: int, width: int) -> None:
    picture = drawn(profiled(num_frames=num_frames, size_px=size_px), tmp_path / "profile.png")
    assert picture.shape[1] == width
    assert 600 < picture.shape[0] < 1300
    assert (picture[:, -4:] == 255).all()
    assert (picture[-4:] == 255).all()


def test_the_image_is_shown_by_whole_squares_in_the_last_column(tmp_path: Path) -> None:
    profile = profiled(num_frames=6, channels=3)
    picture = drawn(profile, tmp_path / "profile.png")
    # 32 px in a column of 140: squares of 4, so 128 px with 6 left and right.
    left = 60 + 5 * 140 + 6
    tile = profile.examples_BTCHW[0, -1].permute(1, 2, 0).numpy().repeat(4, axis=0).repeat(4, axis=1)
    tops = [top for top in range(300) if np.array_equal(picture[top : top + 128, left : left + 128], tile)]
    assert len(tops) == 1


def test_the_same_profile_gives_the_same_bytes_and_another_other_ones(tmp_path: Path) -> None:
    profile = profiled(num_frames=4)
    assert np.array_equal(drawn(profile, tmp_path / "a.png"), drawn(profile, tmp_path / "b.png"))
    moved = replace(profile, frames=tuple(replace(frame, alone=frame.alone / 2) for frame in profile.frames))
    assert not np.array_equal(drawn(profile, tmp_path / "a.png"), drawn(moved, tmp_path / "c.png"))


def test_features_have_a_line_of_their_own(tmp_path: Path) -> None:
    profile = profiled(num_frames=4)
    frames = tuple(replace(frame, feature_distance=0.5) for frame in profile.frames)
    both = drawn(replace(profile, frames=frames, extractor="lite0"), tmp_path / "both.png")
    plain = drawn(profile, tmp_path / "plain.png")
    assert both.shape == plain.shape
    assert (both != plain).any()


def test_great_distances_and_worthless_frames_stay_inside_their_charts(tmp_path: Path) -> None:
    profile = profiled(num_frames=4)
    frames = tuple(replace(frame, pixel_distance=1234.0, alone=-0.7, joint=-0.2) for frame in profile.frames)
    picture = drawn(replace(profile, frames=frames), tmp_path / "profile.png")
    assert picture.shape == drawn(profile, tmp_path / "plain.png").shape
    assert (picture[:, :4] == 255).all()
