"""How the trials learnt, and how the search got better as it spent."""

from markupsafe import Markup

from autopv.report.numbers import distance_text
from autopv.report.page.charts import Line, line_chart
from autopv.report.page.facts import Facts
from autopv.report.page.words import time_unit
from autopv.search.records import TrialRecord
from autopv.verify.controls import IMAGE_ONLY

# Rungs that span more than this factor of compute are shown on a logarithmic axis.
_LOG_FROM = 3.0


def learning_curves(facts: Facts) -> Markup | None:
    """Every trial's looks by its share of compute; None before the first look."""
    records = [record for record in facts.records if record.looks]
    if not records:
        return None
    lines = [_line(facts, record) for record in records]
    shares = [share for line in lines for share, _ in line.points]
    floor = facts.floors.get("search")
    return line_chart(
        lines,
        title="Distance of every trial by its share of compute",
        x_label="share of a full trial's compute",
        y_label=f"distance ({facts.settings.metric})",
        x_text=lambda share: f"{share:.0%}",
        y_text=_tick,
        x_log=max(shares) / min(shares) > _LOG_FROM,
        level=None if floor is None else ("floor", floor),
    )


def best_so_far(facts: Facts) -> Markup | None:
    """The least distance of a full trial by device time spent; None where fewer than two trials were full."""
    points: list[tuple[float, float]] = []
    last_s = 0.0
    seen: set[str] = set()
    for event in facts.events:
        if event["event"] != "look" or event["phase"] != "search" or event["fraction"] < 1 or event["key"] in seen:
            continue
        seen.add(event["key"])
        last_s = event["spent_s"]
        if not points or event["distance"] < points[-1][1]:
            points.append((last_s, event["distance"]))
    if len(seen) < 2:
        return None
    if last_s > points[-1][0]:
        points.append((last_s, points[-1][1]))
    unit_s, unit = time_unit(last_s)
    scaled = [(spent_s / unit_s, distance) for spent_s, distance in points]
    line = Line(label="best so far", title="best distance so far", points=scaled, kind="shown", steps=True)
    return line_chart(
        [line],
        title="Least distance so far by device time spent",
        x_label=f"device time spent by the search ({facts.budget.device}-{unit})",
        y_label=f"distance ({facts.settings.metric})",
        x_text=_tick,
        y_text=_tick,
        x_log=False,
    )


def _line(facts: Facts, record: TrialRecord) -> Line:
    points = sorted(record.looks.items())
    shown = facts.shown_arm in (record.control, record.key)
    kind = "reference" if record.control == IMAGE_ONLY else "shown" if shown else "control" if record.control else "one"
    labelled = shown or record.control is not None
    looks = ", ".join(f"{distance_text(distance)} at {share:.0%}" for share, distance in points)
    title = f"{record.label} ({record.state}): {looks}; {record.policy.describe()}"
    return Line(label=record.label if labelled else "", title=title, points=points, kind=kind)


def _tick(value: float) -> str:
    return f"{value:g}"
