"""What generated images do to a classifier, where the answer is known."""

from dataclasses import replace

import pytest
import torch

from autopv.errors import MetricError
from autopv.evaluation.not_applicable import NotApplicable
from autopv.evaluation.usefulness import MIN_CLASS_IMAGES, Labelled, Usefulness, usefulness

NAMES = ("crack", "good", "hole")
NUM_FEATURES = 12


def labelled(per_class: int, *, seed: int, gap: float = 1.0, names: tuple[str, ...] = NAMES) -> Labelled:
    """Unit Gaussians around one axis for each class: the larger the gap, the easier."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.arange(per_class * len(names)) % len(names)
    noise = torch.randn(len(numbers), NUM_FEATURES, generator=random)
    return Labelled(
        features_ND=noise + gap * torch.eye(NUM_FEATURES)[numbers], classes=tuple(names[n] for n in numbers)
    )


def shuffled(part: Labelled, *, seed: int) -> Labelled:
    order = torch.randperm(len(part.features_ND), generator=torch.Generator().manual_seed(seed))
    assert part.classes is not None
    return Labelled(features_ND=part.features_ND[order], classes=tuple(part.classes[i] for i in order.tolist()))


def renamed(part: Labelled, names: dict[str, str]) -> Labelled:
    assert part.classes is not None
    return replace(part, classes=tuple(names.get(name, name) for name in part.classes))


def probed(train: Labelled, generated: Labelled, *, held_out: Labelled, seed: int = 0) -> Usefulness:
    found = usefulness(train, generated, held_out=held_out, seed=seed)
    assert isinstance(found, Usefulness)
    return found


WRONG = {"crack": "good", "good": "hole", "hole": "crack"}
TINY, MANY, TEST = labelled(6, seed=1), labelled(200, seed=2), labelled(100, seed=3)


def test_separable_classes_are_told_apart_with_and_without_generated_images() -> None:
    found = probed(*(labelled(20, seed=seed, gap=12) for seed in (1, 2)), held_out=labelled(20, seed=3, gap=12))
    assert found.real.balanced_accuracy == found.with_generated.balanced_accuracy == 1
    assert found.real.macro_auroc == 1
    assert found.balanced_accuracy.is_tie
    assert found.macro_auroc.is_tie


def test_features_that_tell_nothing_score_as_chance() -> None:
    found = probed(labelled(60, seed=1, gap=0), labelled(60, seed=2, gap=0), held_out=labelled(200, seed=3, gap=0))
    assert found.real.balanced_accuracy == pytest.approx(1 / 3, abs=0.08)
    assert found.real.macro_auroc == pytest.approx(0.5, abs=0.06)
    assert found.balanced_accuracy.is_tie


def test_informative_images_help_where_real_ones_are_few() -> None:
    found = probed(TINY, MANY, held_out=TEST)
    for change in (found.balanced_accuracy, found.macro_auroc):
        assert change.value > 0.03
        assert change.low > 0
        assert not change.is_tie
    assert found.with_generated.balanced_accuracy - found.real.balanced_accuracy == found.balanced_accuracy.value
    assert (found.num_train, found.num_test) == (18, 300)
    assert found.num_generated == dict.fromkeys(NAMES, 200)


def test_mislabelled_images_hurt() -> None:
    found = probed(
        labelled(20, seed=1, gap=2), renamed(labelled(100, seed=2, gap=2), WRONG), held_out=labelled(100, seed=3, gap=2)
    )
    assert found.balanced_accuracy.high < 0
    assert found.macro_auroc.high < 0


def test_copies_of_the_training_images_change_nothing() -> None:
    found = probed(TINY, TINY, held_out=TEST)
    assert (found.balanced_accuracy.value, found.balanced_accuracy.is_tie) == (0, True)
    assert found.macro_auroc.value == pytest.approx(0, abs=1e-6)


def test_repeating_generated_images_beyond_the_real_number_changes_nothing() -> None:
    once = labelled(6, seed=4)
    assert once.classes is not None
    often = Labelled(features_ND=once.features_ND.repeat(20, 1), classes=once.classes * 20)
    one, many = (probed(TINY, generated, held_out=TEST).with_generated for generated in (once, often))
    assert many.balanced_accuracy == pytest.approx(one.balanced_accuracy, abs=0.01)
    assert many.macro_auroc == pytest.approx(one.macro_auroc, abs=1e-4)


def test_the_order_of_the_images_does_not_matter() -> None:
    usual = probed(TINY, MANY, held_out=TEST)
    assert (
        probed(shuffled(TINY, seed=1), shuffled(MANY, seed=2), held_out=shuffled(TEST, seed=3)).__dict__
        == usual.__dict__
    )


def test_the_seed_moves_the_ends_of_the_interval_a_little_and_nothing_else() -> None:
    one, other = (probed(TINY, MANY, held_out=TEST, seed=seed) for seed in (0, 1))
    assert one.with_generated == other.with_generated
    assert one.macro_auroc != other.macro_auroc
    assert one.macro_auroc.low == pytest.approx(other.macro_auroc.low, abs=0.01)


def test_scores_of_two_classes_by_counting() -> None:
    names = ("bad", "good")
    train, test = labelled(30, seed=1, names=names), labelled(25, seed=3, names=names)
    found = probed(train, train, held_out=test)
    # Fisher's direction of two unit Gaussians is the one the classifier must find: a bound of its scores, within noise.
    score = test.features_ND[:, 0] - test.features_ND[:, 1]
    is_bad = torch.tensor([name == "bad" for name in test.classes or ()])
    wins = (score[is_bad][:, None] > score[~is_bad]).double().mean()
    assert found.real.macro_auroc <= float(wins) + 0.03
    assert found.real.macro_auroc > 0.6


@pytest.mark.slow
def test_the_interval_of_no_change_holds_zero_as_often_as_it_says() -> None:
    # Both classifiers learn from equal numbers of one distribution; the test images decide by luck alone.
    ties = 0
    for seed in range(60):
        train = labelled(150, seed=4 * seed)
        found = probed(train, labelled(2, seed=4 * seed + 1), held_out=labelled(40, seed=4 * seed + 2))
        ties += found.macro_auroc.is_tie
    assert ties >= 51


def test_a_class_that_was_not_generated_still_counts() -> None:
    part = labelled(50, seed=2, names=("crack", "hole"))
    found = probed(TINY, part, held_out=TEST)
    assert found.num_generated == {"crack": 50, "good": 0, "hole": 50}
    assert found.classes == NAMES


def test_rare_and_unknown_classes_are_left_out_and_listed() -> None:
    assert TEST.classes is not None
    few = [i for i, name in enumerate(TEST.classes) if name != "hole"] + [2, 5]
    held_out = Labelled(features_ND=TEST.features_ND[few], classes=tuple(TEST.classes[i] for i in few))
    found = probed(TINY, labelled(50, seed=2, names=(*NAMES, "dent")), held_out=held_out)
    assert found.classes == ("crack", "good")
    assert set(found.left_out) == {"hole", "dent"}
    assert found.left_out["hole"].startswith("6 real training images and 2 held out")


def test_a_feature_that_is_all_but_dead_on_the_training_images_does_no_harm() -> None:
    train, held_out = labelled(40, seed=1, gap=2), labelled(100, seed=3, gap=2)
    train.features_ND[:, 5] = 0
    without = probed(train, train, held_out=held_out).real
    train.features_ND[0, 5] = 1e-5
    assert probed(train, train, held_out=held_out).real.macro_auroc == pytest.approx(without.macro_auroc, abs=1e-3)


def without_classes(part: Labelled) -> Labelled:
    return replace(part, classes=None)


@pytest.mark.parametrize(
    ("train", "generated", "held_out", "reason"),
    [
        (without_classes(TINY), MANY, TEST, "training images have none"),
        (TINY, without_classes(MANY), TEST, "generated images have none"),
        (TINY, MANY, without_classes(TEST), "held-out images have none"),
        (TINY, renamed(MANY, {name: "x" + name for name in NAMES}), TEST, r"but theirs are xcrack, xgood, xhole"),
        (labelled(20, seed=1, names=("good",)), MANY, TEST, "only 'good'; 'crack' has 0 real training images"),
        (labelled(MIN_CLASS_IMAGES - 1, seed=1), MANY, TEST, "there is none; 'crack' has 4 real"),
        (replace(TINY, features_ND=torch.ones(18, NUM_FEATURES)), MANY, TEST, "features are all equal"),
    ],
)
def test_what_cannot_be_measured_is_a_reason(
    train: Labelled, generated: Labelled, held_out: Labelled, reason: str
) -> None:
    found = usefulness(train, generated, held_out=held_out)
    assert isinstance(found, NotApplicable)
    assert reason in found.reason


def test_bad_input_is_refused() -> None:
    with pytest.raises(MetricError, match=r"classes must be one per image \(4\), but got 1"):
        Labelled(features_ND=torch.zeros(4, 2), classes=("a",))
    with pytest.raises(MetricError, match="same number of features"):
        usefulness(TINY, replace(MANY, features_ND=MANY.features_ND[:, :3]), held_out=TEST)
    bad = TEST.features_ND.clone()
    bad[3, 3] = float("nan")
    with pytest.raises(MetricError, match="must be finite"):
        usefulness(TINY, MANY, held_out=replace(TEST, features_ND=bad))
