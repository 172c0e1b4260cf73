"""Previews: frames left to right or in motion, the same for a seed, of defects where the policy is about them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.data.images import ImageSet
from autopv.errors import InputError, PolicyError
from autopv.policy import Layer, Policy
from autopv.report.preview import preview_frames, write_preview

NOISE = Policy(num_frames=4, layers=(Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 3)),))
FADE = Policy(num_frames=3, layers=(Layer(op="defect_fade", magnitude=1.0, frames=(1, 2)),))


def image_set(*, num_images: int = 9, defective: tuple[int, ...] | None = None) -> ImageSet:
    images_NCHW = torch.randint(
        0, 256, (num_images, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    masks_NHW = None
    if defective is not None:
        masks_NHW = torch.zeros(num_images, 16, 16, dtype=torch.bool)
        masks_NHW[list(defective), 4:9, 4:9] = True
    names = tuple(str(i) for i in range(num_images))
    return ImageSet(
        images_NCHW=images_NCHW,
        masks_NHW=masks_NHW,
        names=names,
        labels=None,
        class_names=(),
        groups=names,
        skipped=(),
        source="test",
        digest="test",
    )


def test_a_picture_has_a_row_per_image_and_a_column_per_frame(tmp_path: Path) -> None:
    write_preview(NOISE, image_set(), tmp_path / "p.png", num_images=3)
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.size == (4 * (128 + 2) + 2, 3 * (128 + 2) + 2)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_an_animation_shows_every_frame_and_rests_on_the_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    write_preview(NOISE, image_set(), path, num_images=4)
    with Image.open(path) as animation:
        assert animation.n_frames == 4
        assert animation.info["loop"] == 0
        durations = []
        for frame in range(4):
            animation.seek(frame)
            animation.load()
            durations.append(animation.info["duration"])
        assert durations[-1] > 2 * durations[0]
        last = np.asarray(animation.convert("L")).astype(int)
    tile = np.asarray(image_set().images_NCHW[0, 0]).repeat(8, 0).repeat(8, 1)
    assert np.abs(last[2:130, 2:130] - tile).max() <= (0 if suffix == ".webp" else 8)  # GIF has 256 colours


def test_a_seed_repeats_its_picture(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_preview(NOISE, image_set(), tmp_path / f"{name}.webp", seed=seed)
    first, again, other = ((tmp_path / f"{name}.webp").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_images_with_defects_are_shown_where_the_policy_is_about_them() -> None:
    frames_BTCHW = preview_frames(FADE, image_set(defective=(2, 7)))
    assert torch.equal(frames_BTCHW[:, -1], image_set().images_NCHW[[2, 7]].float() / 255)
    assert len(preview_frames(NOISE, image_set(defective=(2, 7)))) == 6
    with pytest.raises(PolicyError, match="defect_fade needs to know where the defects are"):
        preview_frames(FADE, image_set())


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a preview must end in \.png, \.gif, \.webp"):
        write_preview(NOISE, image_set(), tmp_path / "p.mp4")
    assert not list(tmp_path.iterdir())
