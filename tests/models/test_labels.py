"""Labels drawn by the classes' shares, and their embedding."""

from collections import Counter

import pytest
import torch

from autopv.models.labels import ClassEmbedding, draw_labels


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_labels_have_the_shares_of_the_counts_as_far_as_so_many_can() -> None:
    counts = torch.tensor([30, 0, 10, 20])  # the last one of images without a class
    drawn = draw_labels(counts, 12, generator=generator())
    assert Counter(drawn.tolist()) == {0: 6, 2: 2, -1: 4}
    assert drawn.dtype == torch.int64
    for seed in range(50):
        found = Counter(draw_labels(counts, 7, generator=generator(seed)).tolist())
        assert found.keys() <= {0, 2, -1}
        assert 3 <= found[0] <= 4
        assert 1 <= found[2] <= 2


def test_single_labels_come_as_often_as_their_class() -> None:
    counts = torch.tensor([1, 3, 0])
    drawn = [int(draw_labels(counts, 1, generator=generator(seed))) for seed in range(600)]
    assert drawn.count(1) / len(drawn) == pytest.approx(0.75, abs=0.06)
    assert -1 not in drawn


def test_labels_are_in_random_order_and_repeat_with_the_seed() -> None:
    counts = torch.tensor([50, 50, 0])
    one, same, other = (draw_labels(counts, 40, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, one.sort().values)


def test_an_unlabelled_image_has_no_features_and_others_have_their_row() -> None:
    embedding = ClassEmbedding(3, width=5, initial_sd=1.0)
    features = embedding(torch.tensor([2, -1, 0]))
    assert torch.equal(features, torch.stack([embedding.weight[2], torch.zeros(5), embedding.weight[0]]))
    assert embedding.flops() == 30
    assert not ClassEmbedding(3, width=5).weight.any()
