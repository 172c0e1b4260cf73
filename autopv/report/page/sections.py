"""The sections of a page, in order. Each is a function from a run's facts to the values of its template.

A new section is a function here, an entry of SECTIONS, and templates/SLUG.html.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autopv.report.class_table import class_table
from autopv.report.numbers import distance_text
from autopv.report.page.charts import Part, stacked_bar
from autopv.report.page.comparison import arm_rows, forest
from autopv.report.page.curves import best_so_far, learning_curves
from autopv.report.page.facts import PHASES, Facts
from autopv.report.page.images import Pictures
from autopv.report.page.setting import metric_words, setting_values
from autopv.report.page.verdict import verdict_values
from autopv.report.page.words import policy_words, time_words
from autopv.search.ranking import Expected, expected_results
from autopv.search.records import STATES

Values = dict[str, Any]
# Longer lists of trials are folded.
_MOST_UNFOLDED = 40
_PHASE_NAMES = {"search": "search", "verify": "verification"}
_USE_NAMES = {"startup": "start-up", "other": "other (waiting, saving, lost in crashes)"}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; `values` returns None where a run has nothing to show in it."""

    slug: str
    title: str
    values: Callable[[Facts, Pictures], Values | None]


def _arms(facts: Facts, _: Pictures) -> Values | None:
    rows = arm_rows(facts)
    if not rows:
        return None
    final = None if facts.result is None else facts.result["metrics"]["final"]
    return {
        "rows": rows,
        "forest": forest(facts),
        "floor": None if "final" not in facts.floors else distance_text(facts.floors["final"]),
        "metric": facts.settings.metric if final is None else metric_words(final),
        "num_seeds": None if facts.verdict is None else len(facts.verdict["seeds"]),
        "trial_steps": facts.settings.trial_steps,
        "done": facts.verdict is not None,
        "failed_runs": _failed_runs(facts),
    }


def _failed_runs(facts: Facts) -> list[tuple[str, str]]:
    """Each cause with the arms that it ended, and how often."""
    causes: dict[str, Counter[str]] = {}
    for run in facts.verification:
        if run.failure is not None:
            causes.setdefault(run.failure, Counter())[run.arm] += 1
    return [(cause, ", ".join(f"{arm} ({n})" for arm, n in arms.items())) for cause, arms in causes.items()]


def _classes(facts: Facts, _: Pictures) -> Values | None:
    table = None if facts.result is None else class_table(facts.result)
    if table is None:
        return None
    return {
        "metric": table.metric,
        "header": [name.capitalize() if place < 2 else name for place, name in enumerate(table.header)],
        "rows": table.rows,
        "too_few": ", ".join(table.too_few),
    }


def _samples(facts: Facts, pictures: Pictures) -> Values | None:
    shown = facts.shown_arm
    return {
        "samples": pictures.samples,
        "missing": pictures.missing,
        "seed": facts.settings.seed,
        "shown": shown,
        "recommended": facts.verdict is not None and facts.verdict["recommended"] == shown,
    }


def _videos(facts: Facts, pictures: Pictures) -> Values | None:
    if pictures.videos is None or pictures.policy_of is None:
        return None
    policy = facts.policy(pictures.policy_of)
    assert policy is not None
    return {
        "picture": pictures.videos,
        "name": pictures.policy_of,
        "words": policy_words(policy),
        "policy_line": policy.describe(),
    }


def _curves(facts: Facts, _: Pictures) -> Values | None:
    curves, best = learning_curves(facts), best_so_far(facts)
    if curves is None:
        return None
    return {"curves": curves, "best": best, "verified": bool(facts.verification)}


def _budget(facts: Facts, _: Pictures) -> Values:
    budget = facts.budget
    limit_s = budget.device_s
    total_s = max(facts.spent_s, limit_s or 0.0) or 1.0
    left_s = None if limit_s is None else max(0.0, limit_s - facts.spent_s)
    over_s = 0.0 if limit_s is None else max(0.0, facts.spent_s - limit_s)
    phases = {_PHASE_NAMES[name]: facts.by_phase_s[name] for name in PHASES}
    bars = [
        _bar("by use", facts.use_s, left_s=left_s, total_s=total_s, device=budget.device),
        _bar("by phase", phases, left_s=left_s, total_s=total_s, device=budget.device),
    ]
    return {
        "budget": str(facts.budget),
        "spent": time_words(facts.spent_s, device=budget.device),
        "left": None if left_s is None else time_words(left_s, device=budget.device),
        "over": None if limit_s is None or over_s <= 0 else f"{over_s / limit_s:.1%}",
        "trials": None if budget.trials is None else f"{len(facts.records)} of {budget.trials}",
        "bars": bars if facts.spent_s > 0 else [],
    }


def _bar(name: str, amounts_s: Mapping[str, float], *, left_s: float | None, total_s: float, device: str) -> Values:
    amounts = [(_USE_NAMES.get(use, use), seconds, use) for use, seconds in amounts_s.items() if seconds > 0]
    if left_s:
        amounts.append(("left", left_s, "left"))
    parts = [
        Part(label=f"{name}: {time_words(seconds, device=device)}, {seconds / total_s:.0%}", value=seconds, kind=kind)
        for name, seconds, kind in amounts
    ]
    return {"name": name, "parts": parts, "svg": stacked_bar(parts, total=total_s, title=f"Budget {name}")}


def _trials(facts: Facts, _: Pictures) -> Values | None:
    if not facts.records:
        return None
    best = facts.shown_arm
    records = sorted(
        facts.records,
        key=lambda r: (STATES.index(r.state), r.distance if r.distance is not None else 0.0, r.key),
    )
    causes = Counter(record.failure or "no reason given" for record in records if record.state == "failed")
    expected = {
        result.record.key: result
        for result in expected_results(
            facts.records, floor=facts.floors.get("search", 0.0), length=facts.settings.extrapolation
        )
    }
    lost = sum(event["event"] == "worker_lost" for event in facts.events)
    broke = sum(event["event"] == "ray_failed" for event in facts.events)
    return {
        "rows": [
            {
                "label": record.label,
                "key": record.key,
                "kind": "shown" if best in (record.label, record.key) else "control" if record.control else "",
                "state": record.state,
                "looks": [
                    (f"{fraction:.0%}", distance_text(distance)) for fraction, distance in sorted(record.looks.items())
                ],
                "repeats": record.repeats,
                "expected": _expected_words(expected.get(record.key)),
                "policy": record.policy.describe(),
                "failure": record.failure,
            }
            for record in records
        ],
        "counts": [(state, sum(r.state == state for r in records)) for state in STATES],
        "causes": causes.most_common(),
        "workers_lost": lost,
        "ray_failed": broke,
        "expected_after": max(facts.settings.trial_steps, facts.settings.train_steps or 0),
        "unfolded": len(records) <= _MOST_UNFOLDED,
        "floor": None if "search" not in facts.floors else distance_text(facts.floors["search"]),
    }


def _expected_words(result: Expected | None) -> tuple[str, str] | None:
    """The change of excess that is expected of a policy, and its interval with the number of runs."""
    if result is None or result.change is None or result.record.policy.is_image_only:
        return None
    change, low, high = (f"{value:+.0%}" for value in result.change)
    return change, f"{low} to {high}, {result.num_runs} run{'s' * (result.num_runs > 1)}"


SECTIONS = (
    Section(slug="verdict", title="What to do", values=lambda facts, _: verdict_values(facts)),
    Section(slug="arms", title="The evidence", values=_arms),
    Section(slug="classes", title="Within each class", values=_classes),
    Section(slug="samples", title="What the models draw", values=_samples),
    Section(slug="videos", title="The pseudo videos", values=_videos),
    Section(slug="curves", title="Learning curves", values=_curves),
    Section(slug="budget", title="Where the budget went", values=_budget),
    Section(slug="trials", title="Trials", values=_trials),
    Section(slug="setting", title="Setting, and how to go on", values=lambda facts, _: setting_values(facts)),
)
