"""Samples of a model, and their last-frame distance; the same for trials, verification and full training."""

import torch
from torch import Tensor

from autopv.metrics.metric import LastFrameMetric
from autopv.models.base import VideoGenerator

_SAMPLE_BATCH = 128


def sample_images(model: VideoGenerator, *, num_images: int, seed: int, temperature: float = 1.0) -> Tensor:
    """Last frames images_NCHW on the CPU, float32 in [0, 1]; equal seeds give equal images."""
    generator = torch.Generator(device=model.device).manual_seed(seed)
    sizes = [min(_SAMPLE_BATCH, num_images - start) for start in range(0, num_images, _SAMPLE_BATCH)]
    with torch.inference_mode():
        batches = [
            model.sample_last_frame(size, generator=generator, temperature=temperature).float().cpu() for size in sizes
        ]
    return torch.cat(batches)


def measure(model: VideoGenerator, metric: LastFrameMetric, *, seed: int) -> float:
    """The last-frame distance of as many samples as the metric takes.

    Raises:
        MetricError: the samples are not finite.
    """
    return metric.distance(sample_images(model, num_images=metric.identity.num_generated, seed=seed))
