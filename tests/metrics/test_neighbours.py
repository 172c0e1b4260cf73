from dataclasses import astuple

import pytest
import torch
from tensor_sizes import LargestTensor
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics import neighbours
from autopv.metrics.neighbours import Neighbourhoods, nearest_neighbours, neighbourhoods


def features(count: int, width: int, *, seed: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)


def lattice(count: int, width: int, *, seed: int) -> Tensor:
    """Points of a small lattice: copies and equal distances everywhere, all of them exact in floating point."""
    return torch.randint(0, 3, (count, width), generator=torch.Generator().manual_seed(seed)).double()


def squared(x: list[float], y: list[float]) -> float:
    return sum((p - q) ** 2 for p, q in zip(x, y, strict=True))


def plain_loop(real_ND: Tensor, generated_MD: Tensor, *, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, pair by pair as their papers define them."""
    real, generated = real_ND.tolist(), generated_MD.tolist()

    def radii(points: list[list[float]]) -> list[float]:
        return [sorted(squared(x, y) for j, y in enumerate(points) if j != i)[k - 1] for i, x in enumerate(points)]

    real_radii, generated_radii = radii(real), radii(generated)
    around = [sum(squared(x, y) < radius for x, radius in zip(real, real_radii, strict=True)) for y in generated]
    recall = [any(squared(x, y) < r for y, r in zip(generated, generated_radii, strict=True)) for x in real]
    coverage = [min(squared(x, y) for y in generated) < r for x, r in zip(real, real_radii, strict=True)]
    return (
        sum(count > 0 for count in around) / len(generated),
        sum(recall) / len(real),
        sum(around) / k / len(generated),
        sum(coverage) / len(real),
    )


def figures(result: Neighbourhoods) -> tuple[float, float, float, float]:
    return result.precision, result.recall, result.density, result.coverage


CASES = {
    "gaussians": (features(40, 6, seed=0), features(30, 6, seed=1, mean=0.3)),
    "narrow": (features(30, 6, seed=0), features(40, 6, seed=1, spread=0.3)),
    "lattice": (lattice(40, 3, seed=0), lattice(50, 3, seed=1)),
    "sparse lattice": (lattice(40, 12, seed=0), lattice(30, 12, seed=1)),
    "one feature": (lattice(20, 1, seed=0), lattice(20, 1, seed=1)),
    "copies": (features(20, 6, seed=0).repeat(2, 1), features(20, 6, seed=0)),
    "far from the origin": (features(30, 6, seed=0, mean=1e6).round(), features(30, 6, seed=1, mean=1e6).round()),
    "an outlier": (torch.cat([lattice(30, 3, seed=0), torch.full((1, 3), 1e9)]), lattice(30, 3, seed=1)),
    "constant": (torch.ones(10, 4), torch.ones(12, 4)),
    "collapsed": (features(20, 6, seed=0), features(1, 6, seed=1).repeat(20, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_plain_loop_with_ties_and_copies(case: str, k: int) -> None:
    real, generated = CASES[case]
    for pair in ((real, generated), (generated, real)):
        assert figures(neighbourhoods(*pair, num_neighbours=k)) == pytest.approx(plain_loop(*pair, k=k), abs=1e-12)


# Small whole numbers keep even the package's matrix products exact, so that its ties are ties.
@pytest.mark.parametrize("case", ["gaussians", "narrow", "lattice", "sparse lattice", "one feature"])
def test_equals_the_reference_package(case: str) -> None:
    prdc = pytest.importorskip("prdc", reason="the reference package prdc is not installed")
    real, generated = CASES[case]
    theirs = prdc.compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)
    wanted = tuple(float(theirs[name]) for name in ("precision", "recall", "density", "coverage"))
    assert figures(neighbourhoods(real, generated)) == pytest.approx(wanted)


def test_a_copy_of_the_kth_neighbour_is_outside() -> None:
    real = torch.tensor([[0.0], [1.0], [3.0]])
    # Radii at k = 1: 1, 1, 2. The generated image at 1 is at 0's radius (outside), at 1 itself, and at 3's radius.
    result = neighbourhoods(real, torch.tensor([[1.0], [50.0]]), num_neighbours=1)
    assert result.coverage_N.tolist() == [0, 1, 0]
    assert result.precision_M.tolist() == [1, 0]
    assert result.density_M.tolist() == [1, 0]
    # The generated images' radius is 49: the real image at 1 and at 3 lie within 49 of 50, all lie within 49 of 1.
    assert result.recall_N.tolist() == [1, 1, 1]


def test_generated_images_in_their_own_world_score_zero() -> None:
    assert figures(neighbourhoods(features(30, 4, seed=0), features(30, 4, seed=1, mean=100))) == (0, 0, 0, 0)


def test_one_distribution_scores_as_its_papers_say() -> None:
    result = neighbourhoods(features(1000, 3, seed=0), features(1000, 3, seed=1))
    assert result.density == pytest.approx(1, abs=0.1)
    # Naeem et al., eq. 11: expected coverage 1 - (N - 1)...(N - k) / (2N - 1)...(2N - k), whatever the distribution.
    share = 1.0
    for i in range(1, 6):
        share *= (1000 - i) / (2000 - i)
    assert result.coverage == pytest.approx(1 - share, abs=0.02)


def test_dropped_modes_lower_recall_and_coverage_but_not_precision() -> None:
    modes = torch.cat([features(50, 4, seed=0), features(50, 4, seed=1, mean=20)])
    result = neighbourhoods(modes, features(100, 4, seed=2))
    assert result.precision > 0.8
    assert (result.recall_N[50:].sum(), result.coverage_N[50:].sum()) == (0, 0)


def test_contributions_belong_to_their_images() -> None:
    real, generated = CASES["gaussians"]
    result = neighbourhoods(real, generated)
    order = torch.randperm(len(generated), generator=torch.Generator().manual_seed(0))
    shuffled = neighbourhoods(real.flip(0), generated[order])
    torch.testing.assert_close(shuffled.precision_M, result.precision_M[order])
    torch.testing.assert_close(shuffled.density_M, result.density_M[order])
    torch.testing.assert_close(shuffled.recall_N, result.recall_N.flip(0))
    torch.testing.assert_close(shuffled.coverage_N, result.coverage_N.flip(0))


@pytest.mark.parametrize("case", ["lattice", "gaussians", "constant"])
def test_blocks_change_nothing(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = CASES[case]
    whole = neighbourhoods(real, generated)
    for block, exact in ((1, 1), (7, 3), (39, 2048)):
        monkeypatch.setattr(neighbours, "_BLOCK", block)
        monkeypatch.setattr(neighbours, "_EXACT_PAIRS", exact)
        for dense in (0, 1):
            monkeypatch.setattr(neighbours, "_DENSE", dense)
            for one, other in zip(astuple(neighbourhoods(real, generated)), astuple(whole), strict=True):
                assert torch.equal(one, other)


def test_no_matrix_of_all_pairs_is_held() -> None:
    with LargestTensor() as largest:
        neighbourhoods(features(2000, 2, seed=0), features(1500, 2, seed=1))
    assert largest.numel <= 512 * 2000


@pytest.mark.parametrize("case", CASES)
def test_nearest_neighbours_are_those_of_a_loop(case: str) -> None:
    real, generated = CASES[case]
    distances, indices = nearest_neighbours(generated, real)
    for point, distance, index in zip(generated.tolist(), distances.tolist(), indices.tolist(), strict=True):
        wanted = min(squared(point, other) for other in real.tolist())
        assert distance == pytest.approx(wanted**0.5, rel=1e-12)
        assert squared(point, real[index].tolist()) == pytest.approx(wanted, rel=1e-12)


def test_a_copy_is_at_distance_exactly_zero() -> None:
    train = features(700, 64, seed=0, mean=50).float()
    picked = torch.tensor([3, 699, 512])
    distances, indices = nearest_neighbours(train[picked], train)
    assert distances.tolist() == [0, 0, 0]
    assert indices.tolist() == picked.tolist()


@pytest.mark.parametrize("num_neighbours", [0, -1, 4, 5])
def test_too_few_images_for_the_neighbours_are_refused(num_neighbours: int) -> None:
    for sizes in ((4, 9), (9, 4)):
        real, generated = (features(size, 3, seed=size) for size in sizes)
        with pytest.raises(
            MetricError, match=f"num_neighbours={num_neighbours} with .* pass num_neighbours=3 or fewer"
        ):
            neighbourhoods(real, generated, num_neighbours=num_neighbours)
        neighbourhoods(real, generated, num_neighbours=3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(1, 4), "at least 2 images each, but features_a_ND holds 1"),
        (torch.zeros(9, 4, dtype=torch.int64), "floating-point matrix"),
        (torch.zeros(9, 3), "same number of features, but got 3 and 4"),
        (torch.full((9, 4), torch.nan), "9 of the 9 rows"),
    ],
)
def test_bad_features_are_refused(bad: Tensor, message: str) -> None:
    for function in (neighbourhoods, nearest_neighbours):
        with pytest.raises(MetricError, match=message):
            function(bad, torch.zeros(9, 4))
