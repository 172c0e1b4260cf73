import pytest
import torch

from autopv.errors import MetricError
from autopv.metrics.estimate import Estimate


def values(count: int, *, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_mean_has_its_usual_standard_error() -> None:
    x = values(50, seed=0)
    estimate = Estimate.of_mean(x, name="a")
    assert estimate.value == pytest.approx(float(x.mean()))
    assert estimate.standard_error == pytest.approx(float(x.std(correction=0)) / 50**0.5)
    low, high = estimate.interval()
    assert (high - low) / 2 == pytest.approx(1.959964 * estimate.standard_error)
    low, high = estimate.interval(confidence=0.5)
    assert (high - low) / 2 == pytest.approx(0.6744898 * estimate.standard_error)


def test_a_difference_pairs_what_both_share() -> None:
    x, y = values(50, seed=0), values(50, seed=1) * 0.1
    paired = Estimate.of_mean(x + y, name="a") - Estimate.of_mean(x, name="a")
    assert paired.standard_error == pytest.approx(Estimate.of_mean(y, name="a").standard_error)
    apart = Estimate.of_mean(x + y, name="a") - Estimate.of_mean(x, name="b")
    assert apart.standard_error > 5 * paired.standard_error
    assert apart.value == pytest.approx(paired.value)


def test_a_mean_of_estimates_averages_what_is_shared_and_shrinks_what_is_not() -> None:
    shared = Estimate.of_mean(values(40, seed=0), name="a")
    assert Estimate.mean([shared, shared]).standard_error == pytest.approx(shared.standard_error)
    own = [Estimate.of_mean(values(40, seed=seed), name=str(seed)) for seed in range(4)]
    variances = [one.standard_error**2 for one in own]
    assert Estimate.mean(own).standard_error == pytest.approx((sum(variances) / 16) ** 0.5)
    assert Estimate.mean(own).value == pytest.approx(sum(one.value for one in own) / 4)


def test_sets_of_one_name_must_have_one_size() -> None:
    with pytest.raises(MetricError, match="the set 'a' alike, but it has 3 images in one and 4 in the other"):
        Estimate.of_mean(values(3, seed=0), name="a") + Estimate.of_mean(values(4, seed=0), name="a")


def test_influences_must_be_finite() -> None:
    with pytest.raises(MetricError, match="those of 'a' are not"):
        Estimate(1.0, {"a": torch.tensor([0.0, float("nan")])})
