from collections import Counter
from pathlib import Path

import pytest
import torch
from evaluation_cases import feature_set, gaussian

from autopv.errors import MetricError
from autopv.evaluation import yardstick as yardstick_module
from autopv.evaluation.yardstick import Yardstick
from autopv.metrics.frechet import frechet_distance
from autopv.metrics.kernel import kernel_distance
from autopv.metrics.neighbours import neighbourhoods
from autopv.metrics.selection import evenly

DISTANCES = (("fd", frechet_distance, 1.0), ("kid", kernel_distance, 1000.0))


def test_distance_and_floor_are_those_of_the_same_rows(tmp_path: Path) -> None:
    real, seen, made = gaussian(50), gaussian(40, seed=1), gaussian(40, seed=2, mean=0.5)
    reference, train, generated = (
        feature_set(rows, tmp_path, label=label) for rows, label in ((real, "a"), (seen, "b"), (made, "c"))
    )
    yardstick = Yardstick(reference, train, generated=[generated])
    assert (yardstick.num_images, yardstick.num_generated, yardstick.is_halved) == (50, 40, False)
    for distance, of_rows, scale in DISTANCES:
        measured = yardstick.distance(generated, name="c", distance=distance)
        assert measured.value == pytest.approx(scale * of_rows(real, made))
        assert yardstick.floor(distance).value == pytest.approx(scale * of_rows(real, seen))


def test_more_images_than_n_are_averaged_over_disjoint_draws(tmp_path: Path) -> None:
    real, seen, made = gaussian(30), gaussian(61, seed=1), gaussian(95, seed=2, mean=0.5)
    reference, train, generated, fewest = (
        feature_set(rows, tmp_path, label=label)
        for rows, label in ((real, "a"), (seen, "b"), (made, "c"), (gaussian(30, seed=3), "d"))
    )
    yardstick = Yardstick(reference, train, generated=[generated, fewest])
    assert yardstick.num_generated == 30
    chosen = made[evenly(95, count=90)]
    of_draws = [frechet_distance(real, chosen[first::3]) for first in range(3)]
    assert yardstick.distance(generated, name="c", distance="fd").value == pytest.approx(sum(of_draws) / 3)
    even = seen[evenly(61, count=60)]
    of_draws = [frechet_distance(real, even[first::2]) for first in range(2)]
    assert yardstick.floor("fd").value == pytest.approx(sum(of_draws) / 2)


def test_n_is_taken_on_both_sides(tmp_path: Path) -> None:
    real, seen, made = gaussian(50), gaussian(20, seed=1), gaussian(20, seed=2)
    sets = [feature_set(rows, tmp_path, label=label) for rows, label in ((real, "a"), (seen, "b"), (made, "c"))]
    yardstick = Yardstick(sets[0], sets[1], generated=sets[2:], num_images=20)
    assert (yardstick.num_images, yardstick.num_generated) == (20, 20)
    expected = frechet_distance(real[evenly(50, count=20)], made)
    assert yardstick.distance(sets[2], name="c", distance="fd").value == pytest.approx(expected)
    for number in (1, 21):
        with pytest.raises(MetricError, match=f"2 <= n <= 20 .* n = {number}"):
            Yardstick(sets[0], sets[1], generated=sets[2:], num_images=number)
    with pytest.raises(MetricError, match="halved"):
        Yardstick(sets[0], None, generated=sets[2:], num_images=26)


def test_a_halved_reference_is_measured_both_ways(tmp_path: Path) -> None:
    real, made = gaussian(50), gaussian(25, seed=2, mean=0.5)
    reference, generated = (feature_set(rows, tmp_path, label=label) for rows, label in ((real, "a"), (made, "b")))
    yardstick = Yardstick(reference, None, generated=[generated])
    assert yardstick.is_halved
    one, two = real[yardstick.held_out[1]], real[yardstick.other_real[1]]
    assert len(one) == len(two) == 25
    for distance, of_rows, scale in DISTANCES:
        assert yardstick.floor(distance).value == pytest.approx(scale * of_rows(one, two))
        measured = yardstick.distance(generated, name="b", distance=distance).value
        assert measured == pytest.approx(scale * (of_rows(one, made) + of_rows(two, made)) / 2)


def test_halves_hold_classes_in_proportion(tmp_path: Path) -> None:
    classes = ["rare" if row % 5 == 0 else "common" for row in range(60)]
    reference = feature_set(gaussian(60), tmp_path, label="a", classes=classes)
    yardstick = Yardstick(reference, None, generated=[feature_set(gaussian(30, seed=1), tmp_path, label="b")])
    for _, rows in (yardstick.held_out, yardstick.other_real):
        assert Counter(classes[row] for row in rows.tolist()) == {"rare": 6, "common": 24}


def test_halves_keep_copies_together(tmp_path: Path) -> None:
    different = gaussian(60)
    reference = feature_set(torch.cat([different, different[:10], different[:5]]), tmp_path, label="a")
    yardstick = Yardstick(reference, None, generated=[feature_set(gaussian(20, seed=1), tmp_path, label="b")])
    one, two = (
        {reference.pixel_digests[row] for row in rows.tolist()}
        for _, rows in (yardstick.held_out, yardstick.other_real)
    )
    assert not one & two


def test_halves_depend_on_the_seed_and_not_on_the_order_of_images(tmp_path: Path) -> None:
    real = gaussian(40)
    generated = feature_set(gaussian(20, seed=1), tmp_path, label="made")

    def half(rows: torch.Tensor, *, label: str, seed: int) -> set[bytes]:
        reference = feature_set(rows, tmp_path, label=label)
        chosen = Yardstick(reference, None, generated=[generated], seed=seed).held_out[1]
        return {reference.pixel_digests[row] for row in chosen.tolist()}

    forward, backward = half(real, label="a", seed=0), half(real.flip(0), label="b", seed=0)
    assert forward == backward
    assert forward != half(real, label="a", seed=1)


def test_few_generated_images_leave_both_halves_whole(tmp_path: Path) -> None:
    reference = feature_set(gaussian(60), tmp_path, label="a")
    yardstick = Yardstick(reference, None, generated=[feature_set(gaussian(5, seed=1), tmp_path, label="b")])
    assert (yardstick.num_images, yardstick.num_generated) == (30, 5)
    assert len(yardstick.other_real[1]) == 30


def test_too_few_different_images_cannot_be_halved(tmp_path: Path) -> None:
    generated = feature_set(gaussian(20, seed=1), tmp_path, label="made")
    for rows in (gaussian(1).expand(30, -1).contiguous(), gaussian(2).repeat(10, 1), gaussian(3)):
        reference = feature_set(rows, tmp_path, label=f"of {len(rows)}")
        with pytest.raises(MetricError, match="at least 4 different images"):
            Yardstick(reference, None, generated=[generated])


def test_other_sizes_or_extractors_are_refused(tmp_path: Path) -> None:
    reference = feature_set(gaussian(20), tmp_path, label="a", size_px=8)
    generated = feature_set(gaussian(20), tmp_path, label="b", size_px=16)
    with pytest.raises(MetricError, match=r"'a'.*'b'"):
        Yardstick(reference, None, generated=[generated])


@pytest.mark.parametrize("distance", ["fd", "kid"])
def test_beyond_the_most_rows_held_distances_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distance: str
) -> None:
    reference, train, generated = (
        feature_set(gaussian(count, seed=seed, mean=mean), tmp_path, label=str(seed))
        for seed, (count, mean) in enumerate(((300, 0.0), (310, 0.0), (320, 0.5)))
    )
    yardstick = Yardstick(reference, train, generated=[generated])
    whole = yardstick.distance(generated, name="made", distance=distance)
    monkeypatch.setattr(yardstick_module, "MAX_ROWS", 150)
    part = yardstick.distance(generated, name="made", distance=distance)
    # Moments lose nothing; pairs of images are those of a selection.
    tolerance = {"rel": 1e-6} if distance == "fd" else {"abs": 3 * 2**0.5 * whole.standard_error}
    assert part.value == pytest.approx(whole.value, **tolerance)
    assert part.standard_error == pytest.approx(whole.standard_error, rel=0.35)
    assert yardstick.neighbourhoods(generated).precision > 0.5


def test_neighbourhood_figures_are_those_of_the_same_rows(tmp_path: Path) -> None:
    real, seen, made = gaussian(50), gaussian(40, seed=1), gaussian(40, seed=2, mean=0.5)
    sets = [feature_set(rows, tmp_path, label=label) for rows, label in ((real, "a"), (seen, "b"), (made, "c"))]
    yardstick = Yardstick(sets[0], sets[1], generated=sets[2:])
    for found, rows in ((yardstick.neighbourhoods(sets[2]), made), (yardstick.floor_neighbourhoods(), seen)):
        expected = neighbourhoods(real, rows, num_neighbours=5)
        for figure in ("precision", "recall", "density", "coverage"):
            assert getattr(found, figure) == pytest.approx(getattr(expected, figure))


def test_a_generated_set_may_be_called_train_or_reference(tmp_path: Path) -> None:
    rows = gaussian(40), gaussian(40, seed=1), gaussian(40, seed=2, mean=0.5)
    reference, train, generated = (feature_set(one, tmp_path, label=f"{i}") for i, one in enumerate(rows))
    yardstick = Yardstick(reference, train, generated=[generated])
    excesses = [
        yardstick.distance(generated, name=name, distance="fd") - yardstick.floor("fd")
        for name in ("made", "train", "reference")
    ]
    assert len({one.standard_error for one in excesses}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["fd", "kid"])
@pytest.mark.parametrize("halved", [False, True], ids=["train", "halved"])
def test_standard_errors_are_the_spread_over_redraws(tmp_path: Path, distance: str, halved: bool) -> None:
    excesses, differences = [], []
    for draw in range(80):
        sets = [
            feature_set(gaussian(120, seed=10 * draw + number, mean=mean), tmp_path, label=f"{number}")
            for number, mean in enumerate((0.0, 0.0, 0.8, 1.0))
        ]
        yardstick = Yardstick(sets[0], None if halved else sets[1], generated=sets[2:])
        one, two = (yardstick.distance(made, name=made.label, distance=distance) for made in sets[2:])
        excesses.append(one - yardstick.floor(distance))
        differences.append(one - two)
    for estimates in (excesses, differences):
        spread = float(torch.tensor([one.value for one in estimates]).std())
        told = float(torch.tensor([one.standard_error for one in estimates]).mean())
        # The spread of 80 draws is itself known to 8%; the jackknife errs on the large side.
        assert 0.75 < told / spread < 1.5
