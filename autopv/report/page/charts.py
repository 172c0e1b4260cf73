"""Charts as inline SVG, coloured by the page's style sheet, so that they follow light, dark and print.

Plotting libraries were no help: those for browsers (Plotly, Vega, Bokeh) bring megabytes of script into a page that
should need none, matplotlib cannot change colours with the page, and the small ones that write SVG (pygal, leather)
have neither intervals nor labels that keep clear of each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_WIDTH = 720
_TICK_LENGTH = 5
_LABEL_GAP = 15
_MOST_TICKS = 7
# Distances that span more than this factor are told apart on a logarithmic axis only.
_LOG_FROM = 4.0
_SUBDIVISIONS = (1.0, 2.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """One row of a forest plot. kind: CSS class. low and high: None where no interval can be stated."""

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve. kind: CSS class. label: written at its end; empty for one of many. title: shown under the pointer."""

    label: str
    title: str
    points: Sequence[tuple[float, float]]
    kind: str
    steps: bool = False


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a bar. kind: CSS class."""

    label: str
    value: float
    kind: str


@dataclass(frozen=True)
class Axis:
    """Values to a share (0 to 1) of an axis, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, log: bool | None = None) -> "Axis":
        """An axis that holds the values with some room; log None: where they are positive and span a wide range."""
        low, high = min(values), max(values)
        if log is None:
            log = low > 0 and high / low > _LOG_FROM
        if log:
            room = (high / low) ** 0.05 if high > low else 1.5
            return cls(low / room, high * room, log=True)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """Where a value lies, 0 at the low end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """At most about seven round values."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for subdivisions in ((1.0,), (1.0, 3.0), _SUBDIVISIONS, (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)):
                ticks = [s * 10.0**p for p in powers for s in subdivisions if self.low <= s * 10.0**p <= self.high]
                if len(ticks) >= 3:
                    return ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
        step = _round_step((self.high - self.low) / _MOST_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [i * step for i in range(first, last + 1)]


def forest_plot(rows: Sequence[Interval], *, title: str, axis_label: str, zero_label: str) -> Markup:
    """Values with their intervals, one row each, around a line at zero; values are in percent."""
    left, right, row_height, top = 170, 150, 30, 26
    bounds = [v for row in rows for v in (row.low, row.high, row.value) if v is not None]
    axis = Axis.over([0.0, *bounds], log=False)
    bottom = top + row_height * len(rows)

    def x(value: float) -> float:
        return left + axis.share(value) * (_WIDTH - left - right)

    parts = [_x_axis(axis, x=x, top=top, bottom=bottom, label=axis_label, text=lambda v: f"{v:+g}%" if v else "0")]
    parts.append(_segment(x(0), top, x(0), bottom, kind="zero"))
    parts.append(_text(x(0), 12, zero_label, kind="tick", anchor="middle"))
    for i, row in enumerate(rows):
        y = top + row_height * (i + 0.5)
        if row.low is not None and row.high is not None:
            parts.append(_segment(x(row.low), y, x(row.high), y, kind=f"whisker {row.kind}"))
            parts += [
                _segment(x(bound), y - 5, x(bound), y + 5, kind=f"whisker {row.kind}") for bound in (row.low, row.high)
            ]
        hollow = " hollow" if row.low is None else ""
        parts.append(_dot(x(row.value), y, radius=5, kind=row.kind + hollow))
        parts.append(_text(left - 12, y, row.label, kind=f"name {row.kind}", anchor="end"))
        parts.append(_text(_WIDTH - right + 12, y, row.text, kind="value"))
    return _svg(parts, height=bottom + 46, title=title)


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    x_log: bool | None = None,
    level: tuple[str, float] | None = None,
) -> Markup:
    """Curves with their points, those of many first; a labelled one is named at its end.

    level: name and height of a horizontal line to compare with; left out where it lies too far off to be shown.
    """
    left, right, top, bottom, height = 66, 140, 22, 300, 346
    values = [y for line in lines for _, y in line.points]
    x_axis = Axis.over([x for line in lines for x, _ in line.points], log=x_log)
    y_axis = Axis.over(values)
    if level is not None and (y_axis.log or min(values) - level[1] < 1.5 * (max(values) - min(values))):
        y_axis = Axis.over([*values, level[1]], log=y_axis.log and level[1] > 0)
    else:
        level = None

    def x(value: float) -> float:
        return left + x_axis.share(value) * (_WIDTH - left - right)

    def y(value: float) -> float:
        return bottom - y_axis.share(value) * (bottom - top)

    scale = " (log scale)" if y_axis.log else ""
    parts = [_x_axis(x_axis, x=x, top=top, bottom=bottom, label=x_label, text=x_text)]
    parts.append(_text(left, 8, y_label + scale, kind="axis-label"))
    for tick in y_axis.ticks():
        parts.append(_segment(left, y(tick), _WIDTH - right, y(tick), kind="grid"))
        parts.append(_text(left - 8, y(tick), y_text(tick), kind="tick", anchor="end"))
    if level is not None:
        parts.append(_segment(left, y(level[1]), _WIDTH - right, y(level[1]), kind="level"))
    for line in sorted(lines, key=lambda line: bool(line.label)):
        parts.append(_curve(line, x=x, y=y))
    ends = [(y(line.points[-1][1]), x(line.points[-1][0]), line.label, line.kind) for line in lines if line.label]
    ends += [] if level is None else [(y(level[1]), _WIDTH - right, level[0], "level")]
    for (end, from_x, label, kind), label_y in zip(sorted(ends), _spread(sorted(e[0] for e in ends)), strict=True):
        parts.append(_segment(from_x + 6, end, _WIDTH - right + 16, label_y, kind="leader"))
        parts.append(_text(_WIDTH - right + 20, label_y, label, kind=f"name {kind}"))
    return _svg(parts, height=height, title=title)


def stacked_bar(parts: Sequence[Part], *, total: float, title: str) -> Markup:
    """One bar of a given total, its parts side by side; stretches to the width there is."""
    drawn, start = [], 0.0
    for part in parts:
        drawn.append(
            Markup('<rect x="{}" y="0" width="{}" height="24" class="part {}"><title>{}</title></rect>').format(
                _px(1000 * start / total), _px(1000 * part.value / total), part.kind, part.label
            )
        )
        start += part.value
    return Markup(
        '<svg class="bar" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(title, Markup("").join(drawn))


def _x_axis(
    axis: Axis, *, x: Callable[[float], float], top: float, bottom: float, label: str, text: Callable[[float], str]
) -> Markup:
    parts = [_segment(x(axis.low), bottom, x(axis.high), bottom, kind="axis")]
    for tick in axis.ticks():
        parts.append(_segment(x(tick), top, x(tick), bottom, kind="grid"))
        parts.append(_segment(x(tick), bottom, x(tick), bottom + _TICK_LENGTH, kind="axis"))
        parts.append(_text(x(tick), bottom + 15, text(tick), kind="tick", anchor="middle"))
    parts.append(_text((x(axis.low) + x(axis.high)) / 2, bottom + 35, label, kind="axis-label", anchor="middle"))
    return Markup("").join(parts)


def _curve(line: Line, *, x: Callable[[float], float], y: Callable[[float], float]) -> Markup:
    path = ""
    for i, (across, up) in enumerate(line.points):
        if i and line.steps:
            path += f"H{_px(x(across))}V{_px(y(up))}"
        else:
            path += f"{'L' if i else 'M'}{_px(x(across))} {_px(y(up))}"
    dots = Markup("").join(
        _dot(x(across), y(up), radius=3.5 if line.label else 2, kind=line.kind) for across, up in line.points
    )
    return Markup('<g><title>{}</title><path d="{}" class="line {}"/>{}</g>').format(line.title, path, line.kind, dots)


def _spread(heights: Sequence[float]) -> list[float]:
    """Heights in order, moved apart just so far that labels do not touch, each bunch around its own middle."""
    bunches: list[list[float]] = []
    for height in heights:
        bunches.append([height])
        while len(bunches) > 1 and _bunch_top(bunches[-1]) - _bunch_top(bunches[-2]) < _LABEL_GAP * len(bunches[-2]):
            last = bunches.pop()
            bunches[-1] += last
    return [_bunch_top(bunch) + _LABEL_GAP * i for bunch in bunches for i in range(len(bunch))]


def _bunch_top(heights: Sequence[float]) -> float:
    """Where the first of evenly spaced labels goes, for the middle of all to be where it belongs."""
    return sum(heights) / len(heights) - _LABEL_GAP * (len(heights) - 1) / 2


def _svg(parts: Sequence[Markup], *, height: float, title: str) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _px(height), title, Markup("").join(parts)
    )


def _segment(x1: float, y1: float, x2: float, y2: float, *, kind: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(_px(x1), _px(y1), _px(x2), _px(y2), kind)


def _dot(x: float, y: float, *, radius: float, kind: str) -> Markup:
    return Markup('<circle cx="{}" cy="{}" r="{}" class="dot {}"/>').format(_px(x), _px(y), _px(radius), kind)


def _text(x: float, y: float, text: str, *, kind: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
        _px(x), _px(y + 4), anchor, kind, escape(text)
    )


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(s * power for s in (*_SUBDIVISIONS, 10.0) if s * power >= step * (1 - 1e-9))
