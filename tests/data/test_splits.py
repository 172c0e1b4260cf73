from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopv.data.images import ImageSet
from autopv.data.splits import MAX_HELD_OUT, MIN_SPLIT, Splits, split_images
from autopv.errors import DataError


def make_set(
    count: int, *, labels: Sequence[int] | None = None, groups: Sequence[str] | None = None, copies: int = 1
) -> ImageSet:
    """Distinct images, or each `copies` times."""
    numbers = torch.arange(count) // copies
    pixels = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
    for place in range(3):
        pixels[:, 0, 0, place] = (numbers // 256**place % 256).to(torch.uint8)
    names = tuple(f"{index:05d}.png" for index in range(count))
    return ImageSet(
        images_NCHW=pixels,
        names=names,
        labels=None if labels is None else tuple(labels),
        class_names=() if labels is None else tuple(str(label) for label in range(max(labels) + 1)),
        groups=names if groups is None else tuple(groups),
        skipped=(),
        source="made",
        digest="made",
    )


def sides(splits: Splits) -> dict[int, str]:
    return {int(i): name for name in ("train", "search", "final") for i in getattr(splits, name)}


def check_partition(splits: Splits, count: int) -> None:
    together = torch.cat([splits.train, splits.search, splits.final])
    assert together.dtype == torch.int64
    assert sorted(together.tolist()) == list(range(count))


def test_fractions_are_60_20_20() -> None:
    splits = split_images(make_set(300), seed=0)
    check_partition(splits, 300)
    assert (len(splits.train), len(splits.search), len(splits.final)) == (180, 60, 60)


def test_held_out_splits_are_capped() -> None:
    splits = split_images(make_set(4000), seed=0)
    assert (len(splits.train), len(splits.search), len(splits.final)) == (
        4000 - 2 * MAX_HELD_OUT,
        MAX_HELD_OUT,
        MAX_HELD_OUT,
    )


def test_splits_repeat_and_depend_on_the_seed() -> None:
    one, again, other = (split_images(make_set(200), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.search, again.search)
    assert one.digest == again.digest
    assert not torch.equal(one.search, other.search)
    assert one.digest != other.digest


def test_splits_are_the_same_on_every_machine() -> None:
    assert split_images(make_set(100), seed=0).search[:5].tolist() == [8, 10, 11, 13, 15]


def test_classes_keep_their_proportions() -> None:
    labels = [0] * 150 + [1] * 100 + [2] * 50
    splits = split_images(make_set(300, labels=labels), seed=3)
    for name, wanted in (
        ("train", {0: 90, 1: 60, 2: 30}),
        ("search", {0: 30, 1: 20, 2: 10}),
        ("final", {0: 30, 1: 20, 2: 10}),
    ):
        assert Counter(labels[i] for i in getattr(splits, name).tolist()) == wanted


def test_many_small_classes_fill_the_splits_exactly() -> None:
    labels = [index // 2 for index in range(200)]
    splits = split_images(make_set(200, labels=labels), seed=0)
    assert (len(splits.search), len(splits.final)) == (40, 40)
    # Equal claims are settled by the seed: not always by the same classes.
    assert not torch.equal(splits.search, split_images(make_set(200, labels=labels), seed=1).search)


def test_copies_stay_on_one_side() -> None:
    splits = split_images(make_set(300, copies=3), seed=0)
    side = sides(splits)
    assert all(side[i] == side[i - i % 3] for i in range(300))
    assert len(splits.search) == len(splits.final) == 60


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), group_size=st.integers(1, 12), num_labels=st.integers(1, 6), copies=st.integers(1, 3)
)
def test_groups_and_copies_are_never_on_two_sides(seed: int, group_size: int, num_labels: int, copies: int) -> None:
    count = 180
    groups = [str(i * 7 % count // group_size) for i in range(count)]
    labels = [i % num_labels for i in range(count)]
    image_set = make_set(count, groups=groups, labels=labels, copies=copies)
    try:
        splits = split_images(image_set, seed=seed)
    except DataError:
        # Groups joined through copies can leave too little to hold out; that is refused, never split.
        assert group_size > 1
        assert copies > 1
        return
    check_partition(splits, count)
    side = sides(splits)
    assert len({(groups[i], side[i]) for i in range(count)}) == len(set(groups))
    assert all(side[i] == side[i - i % copies] for i in range(count))
    assert min(len(splits.train), len(splits.search), len(splits.final)) >= MIN_SPLIT
    assert max(len(splits.search), len(splits.final)) <= 36


def test_too_few_images_tells_how_many_are_needed() -> None:
    split_images(make_set(100), seed=0)
    with pytest.raises(DataError, match=r"at least 100 images .* has 99; add 1"):
        split_images(make_set(99), seed=0)


def test_too_few_groups_is_an_error() -> None:
    with pytest.raises(DataError, match="form 4 of them, the largest of 50 images; use a finer group_by"):
        split_images(make_set(200, groups=[str(i // 50) for i in range(200)]), seed=0)


def test_place_depends_on_names_and_not_on_pixels() -> None:
    image_set = make_set(200)
    brighter = ImageSet(**{**vars(image_set), "images_NCHW": image_set.images_NCHW + 1})
    assert torch.equal(split_images(image_set, seed=0).search, split_images(brighter, seed=0).search)
