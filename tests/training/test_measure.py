import pytest
import torch

from autopv.models.base import build_model
from autopv.training.measure import SAMPLE_BATCH, sample_batches, sample_images


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
        assert [tuple(batch.shape[:2]) for batch in batches] == [(SAMPLE_BATCH, num_frames), (2, num_frames)]
        assert torch.equal(torch.cat(batches)[:, -1], images)


def test_a_batch_is_drawn_when_it_is_asked_for(model):
    batches = sample_batches(model, num_images=10**12, seed=0, batch_size=2)
    assert [len(next(batches)) for _ in range(3)] == [2, 2, 2]
