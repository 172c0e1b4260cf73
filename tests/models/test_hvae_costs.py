"""What the hierarchical VAE says it costs against torch's own count, for every preset and size, on the meta device."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autopv.models.base import build_model
from autopv.models.hvae import Hvae

BATCH = 2
# Every preset at every size, and the smallest with other channels and lengths.
SHAPES = [(preset, size_px, 3, 3) for preset, sizes in Hvae.preset_sizes_px.items() for size_px in sizes]
SHAPES += [("tiny", 16, 1, 1), ("tiny", 16, 4, 6), ("small", 32, 4, 6)]


def count(preset, size_px, *, run, channels=1, num_frames=1):
    """The FLOPs per image of run(model, generator), and the model; nothing is computed but shapes."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_model("hvae", preset=preset, size_px=size_px, channels=channels, num_frames=num_frames, seed=0)
        run(model.requires_grad_(False), torch.Generator().manual_seed(0))
    return counter.get_total_flops() / BATCH, model


def take_loss(model, generator):
    frames = torch.rand(BATCH, model.num_frames, model.channels, model.size_px, model.size_px)
    model.loss(frames, frame_weights_T=[0.1] * (model.num_frames - 1) + [1.0], generator=generator)


def sample_images(model, generator):
    model.sample_last_frame(BATCH, generator=generator)


def sample_videos(model, generator):
    model.sample_frames(BATCH, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "size_px", "channels", "num_frames"), SHAPES)
def test_stated_flops_are_the_counted_ones(preset, size_px, channels, num_frames):
    counted, model = count(preset, size_px, run=take_loss, channels=channels, num_frames=num_frames)
    assert model.flops_per_image(num_frames) == pytest.approx(counted, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("preset", Hvae.preset_sizes_px)
def test_an_image_costs_the_same_to_sample_whatever_the_length_and_less_than_its_video(preset):
    size_px = min(Hvae.preset_sizes_px[preset])
    images = [count(preset, size_px, run=sample_images, num_frames=num_frames)[0] for num_frames in (1, 3, 6)]
    video, _ = count(preset, size_px, run=sample_videos, num_frames=6)
    assert 0 < images[0] == images[1] == images[2] < video
