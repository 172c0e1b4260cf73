import pytest
import torch

from autopv.metrics.selection import evenly


@pytest.mark.parametrize(("size", "count"), [(10, 4), (3, 3), (1000, 999), (7, 1), (5, 0), (100_000, 333)])
def test_one_row_comes_from_each_stretch(size: int, count: int) -> None:
    rows = evenly(size, count=count)
    assert len(rows) == count
    for place, row in enumerate(rows.tolist()):
        assert place * size // count <= row < (place + 1) * size // count
    assert torch.equal(rows, evenly(size, count=count))


def test_all_rows_are_all_rows() -> None:
    assert evenly(6, count=6).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("period", [2, 3, 4])
def test_an_order_that_repeats_itself_keeps_its_shares(period: int) -> None:
    kinds = evenly(1200, count=1200 // period) % period
    shares = kinds.bincount(minlength=period) / len(kinds)
    assert shares.tolist() == pytest.approx([1 / period] * period, abs=0.08)
