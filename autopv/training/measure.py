"""Samples of a model, and their last-frame distance; the same for trials, verification and full training."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from autopv.data.class_labels import NO_CLASS
from autopv.metrics.classes import ClassKernel
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
    label: int | None = None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Videos frames_BTCHW on the model's device, float32 in [0, 1], and their labels_B, batch by batch.

    all_frames: or the last alone. label: of all images; without, of a model with classes, labels come as often as among
    the training images. Labels are None of a model without classes. Equal seeds give equal images, with all frames and
    without; another batch size is another draw.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    for start in range(0, num_images, batch_size):
        size = min(batch_size, num_images - start)
        asked = None if label is None else torch.full((size,), label)
        with torch.inference_mode():
            labels_B = model.labels_to_sample(asked, num_images=size, generator=generator)
            if all_frames:
                frames_BTCHW = model.sample_frames(size, labels=labels_B, generator=generator, temperature=temperature)
            else:
                frames_BTCHW = model.sample_last_frame(
                    size, labels=labels_B, generator=generator, temperature=temperature
                )[:, None]
        yield frames_BTCHW.float(), labels_B


def sample_images(
    model: VideoGenerator, *, num_images: int, seed: int, temperature: float = 1.0, label: int | None = None
) -> Tensor:
    """Last frames images_NCHW on the CPU, float32 in [0, 1]; equal seeds give equal images. label: of all of them."""
    batches = sample_batches(model, num_images=num_images, seed=seed, temperature=temperature, label=label)
    return torch.cat([frames_BTCHW[:, -1].cpu() for frames_BTCHW, _ in batches])


def sample_with_labels(model: VideoGenerator, *, num_images: int, seed: int) -> tuple[Tensor, list[int]]:
    """`sample_images`, and the label of each; no labels of a model without classes."""
    images, labels = [], []
    for frames_BTCHW, labels_B in sample_batches(model, num_images=num_images, seed=seed):
        images.append(frames_BTCHW[:, -1].cpu())
        labels += [] if labels_B is None else labels_B.tolist()
    return torch.cat(images), labels


def measure(model: VideoGenerator, metric: LastFrameMetric, *, seed: int) -> float:
    """The last-frame distance of as many samples as the metric takes.

    Raises:
        MetricError: the samples are not finite.
    """
    return metric.distance(sample_images(model, num_images=metric.identity.num_generated, seed=seed))


def measure_by_class(
    model: VideoGenerator, metric: LastFrameMetric, *, class_names: Sequence[str], seed: int
) -> tuple[float, dict[str, ClassKernel] | None]:
    """`measure`, and the same samples' distances within each class; None of a model without classes.

    Raises:
        MetricError: the samples are not finite.
    """
    samples_NCHW, labels = sample_with_labels(model, num_images=metric.identity.num_generated, seed=seed)
    return distance_of_samples(samples_NCHW, labels, metric, class_names=class_names)


def distance_of_samples(
    samples_NCHW: Tensor, labels: Sequence[int], metric: LastFrameMetric, *, class_names: Sequence[str]
) -> tuple[float, dict[str, ClassKernel] | None]:
    """The last-frame distance, and that within each class (see `distance_by_class`); None without classes.

    Raises:
        MetricError: the samples are not finite.
    """
    if not class_names:
        return metric.distance(samples_NCHW), None
    distance, classes = metric.distance_by_class(samples_NCHW, classes=names_of_labels(labels, class_names))
    # How well images of no known class are hit says nothing that a user asked for.
    return distance, {name: one for name, one in classes.items() if name != NO_CLASS}


def names_of_labels(labels: Sequence[int], class_names: Sequence[str]) -> list[str]:
    """The name of the class of each label."""
    return [class_names[label] if label >= 0 else NO_CLASS for label in labels]
