from collections import Counter

import pytest
import torch
from full_cases import METRIC

from autopv.metrics.metric import make_metric
from autopv.models.base import build_model
from autopv.training.measure import (
    SAMPLE_BATCH,
    distance_of_samples,
    sample_batches,
    sample_images,
    sample_with_labels,
)


@pytest.fixture
def model():
    return build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=3, seed=0).eval().requires_grad_(False)


def test_images_are_those_of_one_generator_in_batches_of_128(model):
    generator = torch.Generator().manual_seed(5)
    expected = [model.sample_last_frame(size, generator=generator, temperature=0.9) for size in (128, 2)]
    assert torch.equal(sample_images(model, num_images=130, seed=5, temperature=0.9), torch.cat(expected))


def test_batches_are_the_same_images_with_all_frames_and_without(model):
    images = sample_images(model, num_images=130, seed=5)
    for all_frames, num_frames in ((False, 1), (True, 3)):
        batches = list(sample_batches(model, num_images=130, seed=5, all_frames=all_frames))
        assert [tuple(frames.shape[:2]) for frames, _ in batches] == [(SAMPLE_BATCH, num_frames), (2, num_frames)]
        assert torch.equal(torch.cat([frames for frames, _ in batches])[:, -1], images)
        assert all(labels is None for _, labels in batches)


def test_a_batch_is_drawn_when_it_is_asked_for(model):
    batches = sample_batches(model, num_images=10**12, seed=0, batch_size=2)
    assert [len(next(batches)[0]) for _ in range(3)] == [2, 2, 2]


def test_labels_told_are_those_that_the_images_were_drawn_with():
    model = build_model("diffusion", preset="tiny", size_px=8, channels=1, num_frames=2, seed=0, num_classes=2)
    torch.nn.init.normal_(model.denoiser.leave.weight)  # or nothing would come of a class yet
    model = model.eval().requires_grad_(False)
    model.class_counts = torch.tensor([3, 1, 1])
    images, labels = sample_with_labels(model, num_images=10, seed=5)
    assert Counter(labels) == {0: 6, 1: 2, -1: 2}
    assert torch.equal(images, sample_images(model, num_images=10, seed=5))
    ((frames, of_one),) = sample_batches(model, num_images=10, seed=5, label=1, all_frames=True)
    assert of_one.tolist() == [1] * 10
    assert not torch.equal(frames[:, -1], images)


def test_distances_of_samples_are_told_by_class_but_for_those_of_none():
    real = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    names = ["crack"] * 12 + ["good"] * 12 + ["."] * 6
    metric = make_metric(METRIC, real, data_digest="", num_generated=20, reference_classes=names)
    labels = [0] * 10 + [1] * 5 + [-1] * 5
    distance, classes = distance_of_samples(made, labels, metric, class_names=("crack", "good"))
    assert distance == metric.distance(made)
    assert {name: (one.num_reference, one.num_generated) for name, one in classes.items()} == {
        "crack": (12, 10),
        "good": (12, 5),
    }
    assert distance_of_samples(made, [], metric, class_names=()) == (distance, None)
