"""Are the generated images of use: a light classifier trained on real images, and on real + generated ones.

Both are multinomial logistic regressions on frozen features, tested on held-out real images. How near generated images
are to real ones and how much they help an inspection task can disagree in either direction, so both are shown.

Everything but the generated images is common to both: the standardisation (by the real training images), the strength
of the L2 penalty (by cross-validation on the real training images), equal total weight of all classes, the test images.
Within a class generated images count like real ones, but together at most as much as the real ones: ten thousand poor
images cannot drown out a hundred real ones, and doubling their number does not change what is measured.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from torch import Tensor

from autopv.errors import MetricError
from autopv.evaluation.linear_classifier import Array, Labels, balanced_weights, choose_penalty, fit_classifier
from autopv.evaluation.not_applicable import NotApplicable
from autopv.metrics.checks import check_pair

MIN_CLASS_IMAGES = 5
"""Of a class among real training and among held-out images, or it is left out: each fold must hold one."""
CONFIDENCE = 0.95
NUM_RESAMPLES = 2000
# Of the root mean square spread of all features.
_LEAST_SPREAD = 0.1
# Features of float32: what spreads less, relative to the largest, is constant.
_ROUNDING = 1e-6
# Bounds the memory of the bootstrap: resamples x test images at once.
_CHUNK = 250


@dataclass(frozen=True, eq=False, kw_only=True)
class Labelled:
    """Features (N, D) of images and the class of each; None for a set without classes."""

    features_ND: Tensor
    classes: tuple[str, ...] | None

    def __post_init__(self) -> None:
        if self.classes is not None and len(self.classes) != len(self.features_ND):
            raise MetricError(f"classes must be one per image ({len(self.features_ND)}), but got {len(self.classes)}")


@dataclass(frozen=True)
class Scores:
    """Of one classifier on the test images: 1 is perfect; by chance 1 / number of classes, and 0.5."""

    balanced_accuracy: float
    macro_auroc: float


@dataclass(frozen=True)
class Change:
    """What the generated images change in a score; low and high bound it with `CONFIDENCE`."""

    value: float
    low: float
    high: float

    @property
    def is_tie(self) -> bool:
        """Whether the interval includes 0."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, eq=False, kw_only=True)
class Usefulness:
    """Scores without and with the generated images, and the changes.

    The intervals tell what other test images would have changed; other training images or another generator are not in
    them. left_out: classes that were not used, and why. num_generated: for each class used, 0 where there are none.
    """

    real: Scores
    with_generated: Scores
    balanced_accuracy: Change
    macro_auroc: Change
    classes: tuple[str, ...]
    left_out: Mapping[str, str]
    num_train: int
    num_generated: Mapping[str, int]
    num_test: int
    penalty: float


def usefulness(
    train: Labelled, generated: Labelled, *, held_out: Labelled, seed: int = 0
) -> Usefulness | NotApplicable:
    """What adding the generated images to the real training images does for a classifier of held-out real images.

    The same for any order of the images. seed: of the bootstrap over test images.
    Raises: MetricError for features that are unfit.
    """
    check_pair(train.features_ND, held_out.features_ND)
    check_pair(train.features_ND, generated.features_ND)
    for role, part in (("training", train), ("generated", generated), ("held-out", held_out)):
        if part.classes is None:
            return NotApplicable(
                f"the downstream probe needs classes, but the {role} images have none; sort them into sub-folders "
                "named like their classes"
            )
    counts = [Counter(part.classes) for part in (train, held_out, generated)]
    every = sorted(set().union(*counts))
    left_out = {name: reason for name in every if (reason := _why_left_out(counts[0][name], counts[1][name]))}
    classes = [name for name in every if name not in left_out]
    if len(classes) < 2:
        return NotApplicable(
            f"the downstream probe needs two classes with at least {MIN_CLASS_IMAGES} real images to train on and "
            f"{MIN_CLASS_IMAGES} held out, but there is {'only ' + repr(classes[0]) if classes else 'none'}"
            + "".join(f"; {name!r} has {reason}" for name, reason in left_out.items())
        )
    num_generated = {name: counts[2][name] for name in classes}
    if not any(num_generated.values()):
        return NotApplicable(
            "the downstream probe needs generated images in sub-folders named like the real classes "
            f"({', '.join(classes)}), but theirs are {', '.join(sorted(counts[2]))}"
        )
    train_set, extra_set, test_set = (_Rows.of(part, classes) for part in (train, generated, held_out))
    standard = _Standard.of(train_set.features_ND)
    if standard is None:
        return NotApplicable("the downstream probe needs training images that differ, but their features are all equal")
    real_ND, extra_MD, test_ND = (standard(rows.features_ND) for rows in (train_set, extra_set, test_set))
    penalty = choose_penalty(real_ND, train_set.labels_N)
    alone = fit_classifier(real_ND, train_set.labels_N, weights_N=balanced_weights(train_set.labels_N), penalty=penalty)
    joined = fit_classifier(
        np.vstack([real_ND, extra_MD]),
        np.concatenate([train_set.labels_N, extra_set.labels_N]),
        weights_N=_joined_weights(train_set.labels_N, extra_set.labels_N),
        penalty=penalty,
        start=alone,
    )
    before, after, changes = _compare(alone.logits(test_ND), joined.logits(test_ND), test_set.labels_N, seed=seed)
    return Usefulness(
        real=before,
        with_generated=after,
        balanced_accuracy=changes[0],
        macro_auroc=changes[1],
        classes=tuple(classes),
        left_out=MappingProxyType(left_out),
        num_train=len(train_set.labels_N),
        num_generated=MappingProxyType(num_generated),
        num_test=len(test_set.labels_N),
        penalty=penalty,
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Float64 features (N, D) and the class number of each, in an order that depends on their values alone."""

    features_ND: Array
    labels_N: Labels

    @classmethod
    def of(cls, part: Labelled, classes: Sequence[str]) -> "_Rows":
        number = {name: k for k, name in enumerate(classes)}
        features_ND = part.features_ND.detach().to("cpu", torch.float64).numpy()
        kept = [
            (number[name], row) for name, row in zip(part.classes or (), features_ND, strict=True) if name in number
        ]
        # So that folds, resamples and rounding are those of the images, not of the order they came in.
        kept.sort(key=lambda pair: (pair[0], pair[1].tobytes()))
        rows_ND = np.stack([row for _, row in kept]) if kept else np.zeros((0, features_ND.shape[1]))
        return cls(rows_ND, np.array([k for k, _ in kept], dtype=np.int64))


@dataclass(frozen=True, eq=False)
class _Standard:
    """Takes features to mean 0 and variance 1 / D over the training images: mean squared length 1."""

    mean_D: Array
    scale_D: Array

    @classmethod
    def of(cls, features_ND: Array) -> "_Standard | None":
        spread_D = features_ND.std(axis=0)
        largest = float(spread_D.max())
        if largest <= _ROUNDING * float(np.abs(features_ND).max()):
            return None
        # A feature that is all but dead on the training images would blow up where it comes alive.
        scale_D = np.maximum(spread_D, _LEAST_SPREAD * float(np.sqrt(np.square(spread_D).mean())))
        return cls(features_ND.mean(axis=0), scale_D * len(spread_D) ** 0.5)

    def __call__(self, features_ND: Array) -> Array:
        standard_ND: Array = (features_ND - self.mean_D) / self.scale_D
        return standard_ND


def _why_left_out(num_train: int, num_test: int) -> str:
    """Why a class cannot be used, or an empty text."""
    if min(num_train, num_test) >= MIN_CLASS_IMAGES:
        return ""
    return f"{num_train} real training images and {num_test} held out, but needs {MIN_CLASS_IMAGES} of each"


def _joined_weights(train_labels_N: Labels, extra_labels_M: Labels) -> Array:
    """Weights of real and generated images: equal totals of classes; generated ones at most half of their class."""
    num_classes = int(train_labels_N.max()) + 1
    real_K, extra_K = (np.bincount(labels, minlength=num_classes) for labels in (train_labels_N, extra_labels_M))
    share_K = np.minimum(1.0, real_K / np.maximum(extra_K, 1))
    total_K = real_K + extra_K * share_K
    weights_N: Array = np.concatenate([1 / total_K[train_labels_N], (share_K / total_K)[extra_labels_M]])
    return weights_N


def _compare(
    before_NK: Array, after_NK: Array, labels_N: Labels, *, seed: int
) -> tuple[Scores, Scores, tuple[Change, Change]]:
    """The scores of two classifiers, from their logits, and the changes with their paired bootstrap intervals."""
    once_1N = np.ones((1, len(labels_N)))
    before_2, after_2 = (
        _scores(logits, labels_N, counts_RN=once_1N)[:, 0].tolist() for logits in (before_NK, after_NK)
    )
    drawn_2R = np.concatenate(
        [
            _scores(after_NK, labels_N, counts_RN=counts_RN) - _scores(before_NK, labels_N, counts_RN=counts_RN)
            for counts_RN in _resamples(labels_N, seed=seed)
        ],
        axis=1,
    )
    ends = np.quantile(drawn_2R, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=1).T.tolist()
    accuracy, auroc = (
        Change(after - before, low, high) for before, after, (low, high) in zip(before_2, after_2, ends, strict=True)
    )
    return Scores(*before_2), Scores(*after_2), (accuracy, auroc)


def _resamples(labels_N: Labels, *, seed: int) -> Iterator[Array]:
    """How often each test image is drawn, in chunks (R, N): with replacement, within its class."""
    random = np.random.default_rng(seed)
    sizes_K = np.bincount(labels_N)
    for start in range(0, NUM_RESAMPLES, _CHUNK):
        num_drawn = min(_CHUNK, NUM_RESAMPLES - start)
        counts_RN = np.zeros((num_drawn, len(labels_N)))
        for k, size in enumerate(sizes_K):
            counts_RN[:, labels_N == k] = random.multinomial(size, np.full(size, 1 / size), size=num_drawn)
        yield counts_RN


def _scores(logits_NK: Array, labels_N: Labels, *, counts_RN: Array) -> Array:
    """Balanced accuracy and macro AUROC (2, R) when each test image counts as often as told."""
    right_N = logits_NK.argmax(axis=1) == labels_N
    accuracies, aurocs = [], []
    for k in range(logits_NK.shape[1]):
        of_class_N = labels_N == k
        accuracies.append(counts_RN[:, of_class_N & right_N].sum(axis=1) / counts_RN[:, of_class_N].sum(axis=1))
        # The log odds of the class: unlike its probability, they have no largest value where all good answers tie.
        odds_N = logits_NK[:, k] - logsumexp(np.delete(logits_NK, k, axis=1), axis=1)
        aurocs.append(_auroc(odds_N, of_class_N, counts_RN=counts_RN))
    return np.stack([np.mean(accuracies, axis=0), np.mean(aurocs, axis=0)])


def _auroc(scores_N: Array, positive_N: NDArray[np.bool_], *, counts_RN: Array) -> Array:
    """The probability (R) that a positive image has the higher score than a negative one; ties count half."""
    order = np.argsort(scores_N, kind="stable")
    starts = np.flatnonzero(np.diff(scores_N[order], prepend=-np.inf))
    positive_RG, negative_RG = (
        np.add.reduceat(np.where(chosen_N, counts_RN, 0)[:, order], starts, axis=1)
        for chosen_N in (positive_N, ~positive_N)
    )
    below_RG = np.cumsum(negative_RG, axis=1) - negative_RG / 2
    areas_R: Array = (positive_RG * below_RG).sum(axis=1) / (positive_RG.sum(axis=1) * negative_RG.sum(axis=1))
    return areas_R
