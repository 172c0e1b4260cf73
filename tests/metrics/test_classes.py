"""Distances by class against the distances of hand-picked rows, and class shares by hand."""

import pytest
import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.classes import MIN_FRECHET_IMAGES, MIN_KERNEL_IMAGES, by_class, kernel_by_class, share_distance
from autopv.metrics.estimate import Estimate
from autopv.metrics.frechet import frechet_distance
from autopv.metrics.kernel import kernel_distance, kernel_distance_with_influences
from autopv.metrics.selection import evenly

LARGE = MIN_FRECHET_IMAGES


def features(count: int, *, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


def classes(**counts: int) -> tuple[str, ...]:
    """Names in turn, so that the rows of a class do not lie together."""
    left, names = dict(counts), []
    while any(left.values()):
        for name in left:
            if left[name]:
                names.append(name)
                left[name] -= 1
    return tuple(names)


def rows(names: tuple[str, ...], name: str) -> list[int]:
    return [i for i, each in enumerate(names) if each == name]


def test_each_class_is_compared_with_its_own_rows() -> None:
    real_names, made_names = classes(crack=LARGE, good=LARGE), classes(good=LARGE, crack=LARGE)
    real, made = features(2 * LARGE, seed=1), features(2 * LARGE, seed=2, shift=0.3)
    found = by_class(real, made, reference_classes=real_names, generated_classes=made_names, label="A")
    assert [one.name for one in found.distances] == ["crack", "good"]
    for one in found.distances:
        real_rows, made_rows = real[rows(real_names, one.name)], made[rows(made_names, one.name)]
        assert one.kernel.value == kernel_distance(real_rows, made_rows)
        assert one.frechet == frechet_distance(real_rows, made_rows)
        assert one.frechet_floor is None


def test_a_class_that_is_far_off_stands_out() -> None:
    names = classes(crack=40, good=40, hole=40)
    made = features(120, seed=2)
    made[rows(names, "hole")] += 2
    found = by_class(features(120, seed=1), made, reference_classes=names, generated_classes=names, label="A")
    kernels = {one.name: one.kernel for one in found.distances}
    assert kernels["hole"].interval()[0] > 10 * max(kernels["crack"].value, kernels["good"].value)
    for name in ("crack", "good"):
        low, high = kernels[name].interval(confidence=0.999)
        assert low < 0 < high


def test_influences_run_over_the_whole_sets() -> None:
    names = classes(crack=20, good=30)
    real, made = features(50, seed=1), features(50, seed=2)
    crack = by_class(real, made, reference_classes=names, generated_classes=names, label="A").distances[0].kernel
    members = rows(names, "crack")
    _, of_real, of_made = kernel_distance_with_influences(real[members], made[members])
    assert set(crack.influences) == {"reference", "A"}
    assert torch.equal(crack.influences["reference"][members], of_real)
    assert torch.equal(crack.influences["A"][members], of_made)
    assert crack.influences["A"].count_nonzero() == 20
    alone = Estimate(crack.value, {"reference": of_real, "A": of_made})
    assert crack.standard_error == pytest.approx(alone.standard_error)


def test_two_generated_sets_that_are_alike_tie_within_a_class() -> None:
    names = classes(crack=20, good=30)
    real, made = features(50, seed=1), features(50, seed=2)
    a, b = (
        by_class(real, made, reference_classes=names, generated_classes=names, label=label).distances[0].kernel
        for label in ("A", "B")
    )
    # What they owe to the common reference cancels; what they owe to their own draws does not.
    assert 0 < (a - b).standard_error < a.standard_error * 2**0.5
    assert (a - a).standard_error == 0


def test_a_small_class_gets_no_frechet_distance() -> None:
    names = classes(few=LARGE - 1, many=LARGE)
    count = 2 * LARGE - 1
    found = by_class(
        features(count, seed=1), features(count, seed=2), reference_classes=names, generated_classes=names, label="A"
    )
    few, many = found.distances
    assert (few.frechet, few.num_frechet) == (None, LARGE - 1)
    assert many.frechet is not None
    assert many.num_frechet == LARGE


def test_the_frechet_distance_and_its_floor_are_measured_at_one_n_evenly_chosen() -> None:
    real, made, train = features(90, seed=1), features(200, seed=2), features(LARGE, seed=3)
    found = by_class(
        real,
        made,
        reference_classes=["good"] * 90,
        generated_classes=["good"] * 200,
        label="A",
        train_KD=train,
        train_classes=["good"] * LARGE,
    ).distances[0]
    assert (found.num_reference, found.num_generated, found.num_frechet) == (90, 200, LARGE)
    real_even = real[evenly(90, count=LARGE)]
    assert found.frechet == frechet_distance(real_even, made[evenly(200, count=LARGE)])
    assert found.frechet_floor == frechet_distance(real_even, train)
    # The kernel distance is unbiased at any n, so no image is left out of it.
    assert found.kernel.value == kernel_distance(real, made)


def test_classes_of_one_side_and_tiny_ones_are_listed() -> None:
    real_names = classes(crack=10, good=10, tiny=MIN_KERNEL_IMAGES - 1, rust=5)
    made_names = classes(good=12, tiny=10, bent=6, crack=MIN_KERNEL_IMAGES)
    found = by_class(
        features(len(real_names), seed=1),
        features(len(made_names), seed=2),
        reference_classes=real_names,
        generated_classes=made_names,
        label="A",
    )
    assert [one.name for one in found.distances] == ["crack", "good"]
    assert (found.only_reference, found.only_generated, found.too_few) == (("rust",), ("bent",), ("tiny",))


def test_the_kernel_distances_alone_are_those_beside_the_frechet_distances() -> None:
    names = classes(crack=LARGE, good=20, tiny=MIN_KERNEL_IMAGES - 1)
    real, made = features(len(names), seed=1), features(len(names), seed=2)
    both = {"reference_classes": names, "generated_classes": names}
    alone = kernel_by_class(real, made, **both)
    beside = by_class(real, made, **both, label="A").distances
    assert [
        (name, one.kernel, one.standard_error, one.num_reference, one.num_generated) for name, one in alone.items()
    ] == [
        (one.name, one.kernel.value, pytest.approx(one.kernel.standard_error), one.num_reference, one.num_generated)
        for one in beside
    ]


def test_share_distance_by_hand() -> None:
    assert share_distance(["a", "a", "b", "c"], ["a", "a", "b", "c"] * 3) == 0
    assert share_distance(["a", "b"], ["c"]) == 1
    assert share_distance(["a", "a", "b", "b"], ["a", "a", "a", "b"]) == pytest.approx(0.25)


def test_bad_input_is_refused() -> None:
    real, made = features(8, seed=1), features(8, seed=2)
    with pytest.raises(MetricError, match=r"generated_classes must be one per image \(8\), but got 3"):
        by_class(real, made, reference_classes=["a"] * 8, generated_classes=["a"] * 3, label="A")
    with pytest.raises(MetricError, match="same number of features"):
        by_class(real, made[:, :3], reference_classes=["a"] * 8, generated_classes=["a"] * 8, label="A")
    made[0, 0] = float("nan")
    with pytest.raises(MetricError, match="must be finite"):
        by_class(real, made, reference_classes=["a"] * 8, generated_classes=["a"] * 8, label="A")
