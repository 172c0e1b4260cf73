"""Samples of a model, and their last-frame distance; the same for trials, verification and full training."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autopv.metrics.metric import LastFrameMetric
from autopv.models.base import VideoGenerator

SAMPLE_BATCH = 128


def sample_batches(
    model: VideoGenerator,
    *,
    num_images: int,
    seed: int,
    temperature: float = 1.0,
    batch_size: int = SAMPLE_BATCH,
    all_frames: bool = False,
) -> Iterator[Tensor]:
    """Videos frames_BTCHW on the model's device, batch by batch, float32 in [0, 1]: all frames, or the last alone.

    Equal seeds give equal images, with all frames and without; another batch size is another draw.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    for start in range(0, num_images, batch_size):
        size = min(batch_size, num_images - start)
        with torch.inference_mode():
            if all_frames:
                frames_BTCHW = model.sample_frames(size, generator=generator, temperature=temperature)
            else:
                frames_BTCHW = model.sample_last_frame(size, generator=generator, temperature=temperature)[:, None]
        yield frames_BTCHW.float()


def sample_images(model: VideoGenerator, *, num_images: int, seed: int, temperature: float = 1.0) -> Tensor:
    """Last frames images_NCHW on the CPU, float32 in [0, 1]; equal seeds give equal images."""
    batches = sample_batches(model, num_images=num_images, seed=seed, temperature=temperature)
    return torch.cat([frames_BTCHW[:, -1].cpu() for frames_BTCHW in batches])


def measure(model: VideoGenerator, metric: LastFrameMetric, *, seed: int) -> float:
    """The last-frame distance of as many samples as the metric takes.

    Raises:
        MetricError: the samples are not finite.
    """
    return metric.distance(sample_images(model, num_images=metric.identity.num_generated, seed=seed))
