import torch

from autopv.training.streams import BatchOrder, stream


def test_streams_repeat_and_differ_by_seed_purpose_and_step():
    def draw(seed, purpose, step):
        return torch.rand(4, generator=stream(seed, purpose=purpose, step=step))

    first = draw(0, "render", 0)
    assert torch.equal(first, draw(0, "render", 0))
    for other in (draw(1, "render", 0), draw(0, "order", 0), draw(0, "render", 1)):
        assert not torch.equal(first, other)


def test_an_epoch_takes_every_image_once():
    order = BatchOrder(12, batch_size=4, seed=0)
    assert sorted(torch.cat([order.indices(step) for step in range(3)]).tolist()) == list(range(12))
    assert not torch.equal(order.indices(0), order.indices(3))


def test_a_batch_may_span_epochs_and_exceed_the_data():
    order = BatchOrder(5, batch_size=8, seed=0)
    taken = torch.cat([order.indices(step) for step in range(5)])
    assert torch.equal(taken.bincount(), torch.full((5,), 8))


def test_the_order_does_not_depend_on_what_was_asked_before():
    walked = BatchOrder(10, batch_size=4, seed=3)
    for step in range(7):
        walked.indices(step)
    assert torch.equal(walked.indices(2), BatchOrder(10, batch_size=4, seed=3).indices(2))
