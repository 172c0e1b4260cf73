"""What is told of classes: how many images they have, and what a verification found within each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autopv.data.class_labels import NO_CLASS
from autopv.metrics.metric import metric_name
from autopv.report.numbers import interval_text
from autopv.verify.controls import IMAGE_ONLY

MOST_PICTURED = 8
"""Of more classes than this, samples of the first are shown."""


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """A row for each class, a column for each arm.

    metric: the distance's name. too_few: classes with too few real images to be measured.
    """

    metric: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    too_few: Sequence[str]


def class_table(result: Mapping[str, Any], *, arms: Sequence[str] | None = None) -> ClassTable | None:
    """Of a result, for these arms (default: all, the nearest first); None where there are no classes."""
    record = result.get("classes")  # results of earlier versions do not tell
    if not record or not record["arms"]:
        return None
    order = [c["arm"] for c in sorted(result["verdict"]["comparisons"], key=lambda c: c["mean_distance"])]
    shown = [arm for arm in arms or order if arm in record["arms"]]
    return ClassTable(
        metric=metric_name("kid", result["metrics"]["final"]["extractor"]),
        header=["class", "real images", *shown],
        rows=[
            [name, str(count), *(_cell(record["arms"][arm].get(name)) for arm in shown)]
            for name, count in record["num_reference"].items()
        ],
        too_few=record["too_few"],
    )


def class_counts_text(counts: Mapping[str, int]) -> str:
    """How many images each class has.

    >>> class_counts_text({"crack": 36, "good": 80, ".": 4})
    'by class: crack (36), good (80); 4 images of no known class'
    """
    told = ", ".join(f"{name} ({count})" for name, count in counts.items() if name != NO_CLASS)
    unlabelled = counts.get(NO_CLASS, 0)
    return f"by class: {told}" + (f"; {unlabelled} images of no known class" if unlabelled else "")


def compared_arms(result: Mapping[str, Any]) -> list[str]:
    """Image-only, and the arm to look at beside it: the recommended one, else the nearest other one."""
    verdict = result["verdict"]
    others = [(c["mean_distance"], c["arm"]) for c in verdict["comparisons"] if c["arm"] != IMAGE_ONLY]
    if verdict["recommended"] != IMAGE_ONLY:
        return [IMAGE_ONLY, verdict["recommended"]]
    return [IMAGE_ONLY, *([min(others)[1]] if others else [])]


def _cell(figures: Mapping[str, Any] | None) -> str:
    return "-" if figures is None else interval_text(figures["kernel"], standard_error=figures["standard_error"])
