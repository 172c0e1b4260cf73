"""The arms against image-only: rows of the table, and the forest plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autopv.policy import Policy
from autopv.report.numbers import distance_text
from autopv.report.page.charts import Interval, forest_plot
from autopv.report.page.facts import Facts
from autopv.report.page.words import change_words, policy_words, seed_words
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.statistics import MIN_BLOCKS

_FAILED, _NOT_YET = "failed", "–"


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """One line of the table of arms, every cell as text. kind: CSS class."""

    name: str
    kind: str
    words: str
    excess: str
    change: str
    interval: str
    seeds: tuple[str, ...]


def arm_rows(facts: Facts) -> list[ArmRow]:
    """The verified arms, the best first; of a verification that goes on, what there is so far."""
    if facts.verdict is None or not facts.verdict["seeds"]:
        return _rows_so_far(facts)
    compared = {c["arm"]: c for c in facts.verdict["comparisons"]}
    rows = [_row(facts, comparison) for comparison in sorted(compared.values(), key=lambda c: c["mean_distance"])]
    left_out = [name for name in facts.verdict["per_seed"] if name not in compared]
    return rows + [_plain_row(facts, name, facts.verdict["per_seed"][name]) for name in left_out]


def forest(facts: Facts) -> Markup | None:
    """The changes against image-only with their intervals; None where nothing was compared."""
    if facts.verdict is None:
        return None
    rows = [
        Interval(
            label=c["arm"],
            value=-100 * c["gain"],
            low=None if c["gain_high"] is None else -100 * c["gain_high"],
            high=None if c["gain_low"] is None else -100 * c["gain_low"],
            text=f"{change_words(c['gain'])} {_interval(c)}",
            kind=_kind(facts, c["arm"]),
        )
        for c in sorted(facts.verdict["comparisons"], key=lambda c: c["mean_distance"])
        if c["gain"] is not None
    ]
    if not rows:
        return None
    bounded = rows[0].low is not None
    return forest_plot(
        rows,
        title="Change of excess of every arm against image-only",
        zero_label=IMAGE_ONLY,
        axis_label="change of excess against image-only; left is better"
        + ("" if bounded else f"; no intervals below {MIN_BLOCKS} seeds"),
    )


def _row(facts: Facts, comparison: Mapping[str, Any]) -> ArmRow:
    assert facts.verdict is not None
    name, gain = comparison["arm"], comparison["gain"]
    reference = "reference" if name == IMAGE_ONLY else _NOT_YET
    return ArmRow(
        name=name,
        kind=_kind(facts, name),
        words=_words(facts, name),
        excess=distance_text(comparison["mean_excess"]),
        change=reference if gain is None else change_words(gain),
        interval=_interval(comparison),
        seeds=_seeds(facts.verdict["per_seed"][name]),
    )


def _rows_so_far(facts: Facts) -> list[ArmRow]:
    """Distances of the runs that have ended, arm by arm, on the seeds in order."""
    if not facts.verification:
        return []
    seeds = list(dict.fromkeys(result.seed for result in facts.verification))
    by_run = {(result.arm, result.seed): result for result in facts.verification}
    rows = []
    for arm in facts.arms:
        results = [by_run.get((arm.name, seed)) for seed in seeds]
        texts = tuple(
            _NOT_YET if r is None else _FAILED if r.distance is None else seed_words(r.distance) for r in results
        )
        rows.append(
            ArmRow(
                name=arm.name,
                kind=_kind(facts, arm.name),
                words=policy_words(arm.policy),
                excess=_NOT_YET,
                change=_NOT_YET,
                interval="",
                seeds=texts,
            )
        )
    return rows


def _plain_row(facts: Facts, name: str, distances: list[float | None]) -> ArmRow:
    """An arm that was left out of the comparison."""
    return ArmRow(
        name=name,
        kind="failed",
        words=_words(facts, name),
        excess=_NOT_YET,
        change="left out",
        interval="",
        seeds=_seeds(distances),
    )


def _kind(facts: Facts, name: str) -> str:
    if name == IMAGE_ONLY:
        return "reference"
    if name == facts.shown_arm:
        return "shown"
    searched = {arm.name for arm in facts.arms if arm.kind == "searched"}
    return "searched" if name in searched else "control"


def _interval(comparison: Mapping[str, Any]) -> str:
    if comparison["gain_low"] is None:
        return ""
    return f"[{change_words(comparison['gain_high'])}, {change_words(comparison['gain_low'])}]"


def _words(facts: Facts, name: str) -> str:
    return policy_words(facts.policy(name) or Policy.image_only())


def _seeds(distances: list[float | None]) -> tuple[str, ...]:
    return tuple(_FAILED if distance is None else seed_words(distance) for distance in distances)
