"""Intervals of the block design against an independent computation, and their coverage."""

import numpy as np
import pytest
from scipy import stats

from autopv.verify.statistics import MIN_BLOCKS, compare_arms


def by_arm(**values: list[float]) -> dict[str, list[float]]:
    return {name.replace("_", "-"): list(v) for name, v in values.items()}


def test_gain_is_the_share_of_image_only_excess_that_goes_away() -> None:
    image_only, blur = compare_arms(by_arm(image_only=[300.0], blur=[280.0]), reference="image-only", floor=100.0)
    assert image_only.gain is None
    assert blur.gain == pytest.approx(20 / 200)
    assert blur.mean_excess == pytest.approx(180)
    assert blur.gain_low is None


def test_two_arms_reduce_to_the_paired_t_test() -> None:
    a, b = [310.0, 305.0, 330.0, 322.0], [290.0, 300.0, 310.0, 299.0]
    _, blur = compare_arms(by_arm(image_only=a, blur=b), reference="image-only", floor=100.0)
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    excess = np.mean(a) - 100
    assert blur.gain_low == pytest.approx(interval.low / excess)
    assert blur.gain_high == pytest.approx(interval.high / excess)


def test_what_a_seed_does_to_all_arms_does_not_widen_the_interval() -> None:
    steady = by_arm(image_only=[300.0, 302.0, 299.0], blur=[280.0, 283.0, 279.0], noise=[295.0, 298.0, 296.0])
    shifts = [0.0, 500.0, -90.0]
    shifted = {arm: [v + s for v, s in zip(values, shifts, strict=True)] for arm, values in steady.items()}
    width = [
        [c.gain_high - c.gain_low for c in compare_arms(d, reference="image-only", floor=0.0)[1:]]  # type: ignore[operator]
        for d in (steady, shifted)
    ]
    means = [np.mean(d["image-only"]) for d in (steady, shifted)]
    assert np.array(width[0]) * means[0] == pytest.approx(np.array(width[1]) * means[1])


def test_no_interval_below_the_least_number_of_blocks() -> None:
    few = by_arm(image_only=[300.0] * (MIN_BLOCKS - 1), blur=[280.0] * (MIN_BLOCKS - 1))
    assert compare_arms(few, reference="image-only", floor=0.0)[1].gain_low is None


def test_at_the_floor_there_is_no_share_to_speak_of() -> None:
    at_floor = by_arm(image_only=[99.0, 100.0, 100.0], blur=[99.0, 98.0, 97.0])
    assert compare_arms(at_floor, reference="image-only", floor=100.0)[1].gain is None


def test_unequal_blocks_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="one distance per block"):
        compare_arms(by_arm(image_only=[1.0, 2.0], blur=[1.0]), reference="image-only", floor=0.0)


@pytest.mark.slow
def test_all_intervals_hold_at_once_in_95_percent_of_experiments() -> None:
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(600):
        values = 600 + rng.normal(0, 30, (1, 3)) + rng.normal(0, 10, (8, 3))  # 8 equal arms, seeds in common
        arms = {"image-only": list(values[0]), **{f"arm{i}": list(values[i]) for i in range(1, 8)}}
        comparisons = compare_arms(arms, reference="image-only", floor=100.0)[1:]
        missed += any(not c.gain_low <= 0 <= c.gain_high for c in comparisons)  # type: ignore[operator]
    assert missed / 600 < 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5
