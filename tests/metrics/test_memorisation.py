import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu, norm
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.memorisation import memorisation


def features(count: int, width: int = 8, *, seed: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)


TRAIN, HELD_OUT = features(100, seed=0), features(60, seed=1)


def test_planted_copies_are_found() -> None:
    generated = features(80, seed=2)
    planted = {5: 17, 40: 99, 79: 0}
    for row, source in planted.items():
        generated[row] = TRAIN[source]
    result = memorisation(generated, TRAIN, held_out_KD=HELD_OUT, num_pairs=4)
    assert result.num_copies == 3
    assert {pair.generated: pair.train for pair in result.pairs[:3]} == planted
    assert [pair.ratio for pair in result.pairs[:3]] == [0, 0, 0]
    assert result.pairs[3].ratio > 0.1
    assert bool(result.near_M[list(planted)].all())


def test_noisy_copies_are_flagged_and_are_no_exact_copies() -> None:
    generated = TRAIN[:50] + features(50, seed=2, spread=0.05)
    result = memorisation(generated, TRAIN, held_out_KD=HELD_OUT)
    assert result.num_copies == 0
    assert result.share_near == 1
    assert result.nearest_M.tolist() == list(range(50))
    assert result.p_value < 1e-6
    assert result.copying_z < -7


def test_a_few_copies_among_poor_images_show_in_the_tail_only() -> None:
    generated = torch.cat([TRAIN[:12] + 0.01, features(68, seed=2, mean=5)])
    result = memorisation(generated, TRAIN, held_out_KD=HELD_OUT)
    assert result.num_near == 12
    assert result.p_value < 0.05
    assert result.copying_z > 3


def test_poor_images_are_not_taken_for_copies() -> None:
    result = memorisation(features(80, seed=2, mean=5), TRAIN, held_out_KD=HELD_OUT)
    assert (result.num_near, result.p_value) == (0, 1)


def test_float32_rounding_of_another_batch_hides_no_copy() -> None:
    rounding = 1 + 3e-6 * features(10, seed=3).sign()
    result = memorisation(TRAIN[:10] * rounding, TRAIN, held_out_KD=HELD_OUT)
    assert result.num_copies == 10
    assert float(result.distances_M.min()) > 0


@pytest.mark.parametrize("num_held_out", [12, 60])
def test_an_honest_generator_is_flagged_at_the_stated_rates(num_held_out: int) -> None:
    repeats, level = 250, 0.05
    results = []
    for i in range(repeats):
        train, held_out, generated = features(190 + num_held_out, 4, seed=i).split([40, num_held_out, 150])
        results.append(memorisation(generated, train, held_out_KD=held_out))
    # Four standard errors of a rate over the repeats; the count is discrete, so its test may flag less often.
    slack = 4 * (level / repeats) ** 0.5
    assert np.mean([r.p_value < level for r in results]) < level + slack
    assert np.mean([r.p_value < 0.2 for r in results]) == pytest.approx(0.2, abs=0.1)
    shares = [r.share_near for r in results]
    assert np.mean(shares) == pytest.approx(results[0].expected_share, abs=4 * np.std(shares) / repeats**0.5)
    z = np.array([r.copying_z for r in results])
    assert np.mean(z < norm.ppf(level)) == pytest.approx(level, abs=slack)
    assert (z.mean(), z.std()) == (pytest.approx(0, abs=4 / repeats**0.5), pytest.approx(1, abs=0.15))


@pytest.mark.parametrize(
    ("num_held_out", "quantile", "rank"), [(2, 0.05, 1), (19, 0.05, 1), (99, 0.05, 5), (99, 0.5, 50), (4, 0.99, 4)]
)
def test_threshold_is_an_order_statistic_with_a_known_share(num_held_out: int, quantile: float, rank: int) -> None:
    held_out = features(num_held_out, seed=1)
    result = memorisation(features(30, seed=2), TRAIN, held_out_KD=held_out, quantile=quantile)
    assert result.expected_share == rank / (num_held_out + 1)
    assert result.threshold == sorted(result.held_out_distances_K.tolist())[rank - 1]
    assert result.near_M.tolist() == [distance < result.threshold for distance in result.distances_M.tolist()]


def test_p_value_is_that_of_all_orders_of_the_images() -> None:
    # With the smallest of K as the threshold, c or more of M lie below when the c smallest of all are generated.
    held_out, generated = features(9, seed=1), features(6, seed=2)
    generated[:2] = TRAIN[:2] + 1e-3
    result = memorisation(generated, TRAIN, held_out_KD=held_out)
    wanted = np.prod([(6 - i) / (15 - i) for i in range(result.num_near)])
    assert result.num_near >= 2
    assert result.p_value == pytest.approx(wanted)


@pytest.mark.parametrize("ties", [False, True])
def test_copying_z_is_the_mann_whitney_test(ties: bool) -> None:
    sets = [features(40, 2, seed=3), features(25, 2, seed=4), features(30, 2, seed=5, spread=0.8)]
    train, held_out, generated = [x.round() + 0.1 * (i > 0) for i, x in enumerate(sets)] if ties else sets
    result = memorisation(generated, train, held_out_KD=held_out)
    theirs = mannwhitneyu(
        result.distances_M.numpy(),
        result.held_out_distances_K.numpy(),
        alternative="less",
        method="asymptotic",
        use_continuity=False,
    )
    assert norm.cdf(result.copying_z) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_equal_distances_speak_neither_way() -> None:
    train = torch.zeros(3, 2)
    ring = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    result = memorisation(-ring, train, held_out_KD=ring)
    assert (result.copying_z, result.num_near, result.p_value, result.num_copies) == (0, 0, 1, 0)


def test_pairs_are_the_closest_first_and_as_many_as_asked_for() -> None:
    generated = features(20, seed=2)
    result = memorisation(generated, TRAIN, held_out_KD=HELD_OUT, num_pairs=30)
    assert len(result.pairs) == 20
    assert [pair.distance for pair in result.pairs] == sorted(result.distances_M.tolist())
    median = float(result.held_out_distances_K.median())
    for pair in result.pairs:
        between = float((generated[pair.generated] - TRAIN[pair.train]).norm())
        assert (pair.distance, pair.ratio) == (pytest.approx(between), pytest.approx(between / median))
    assert memorisation(generated, TRAIN, held_out_KD=HELD_OUT, num_pairs=0).pairs == ()


def test_held_out_images_that_are_training_images_give_no_yardstick() -> None:
    with pytest.raises(MetricError, match=r"at least half of the 100 equal one; split the images anew"):
        memorisation(features(20, seed=2), TRAIN, held_out_KD=TRAIN * (1 + 1e-7))


@pytest.mark.parametrize("options", [{"quantile": 0.0}, {"quantile": 1.0}, {"num_pairs": -1}])
def test_bad_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(MetricError, match=r"0 < quantile < 1 and num_pairs >= 0 must hold"):
        memorisation(TRAIN, TRAIN, held_out_KD=HELD_OUT, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["generated_MD", "train_ND", "held_out_KD"])
def test_bad_features_are_refused_by_name(place: str) -> None:
    sets = {"generated_MD": features(9, seed=2), "train_ND": TRAIN, "held_out_KD": HELD_OUT}
    for bad, message in (
        (torch.full((9, 8), torch.nan), f"9 of the 9 rows of {place}"),
        (torch.zeros(1, 8), f"2 images each, but {place} holds 1"),
        (torch.zeros(9, 5), "same number of features"),
    ):
        with pytest.raises(MetricError, match=message):
            memorisation(**{**sets, place: bad})
