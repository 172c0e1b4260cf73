"""Charts of a page: axes with round ticks, labels clear of each other, and text that stays text."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from markupsafe import Markup

from autopv.report.page.charts import Axis, Interval, Line, Part, forest_plot, line_chart, stacked_bar


def texts(chart: Markup, kind: str) -> list[tuple[float, float, str]]:
    """(x, y, text) of every text of a kind."""
    return [
        (float(e.attrib["x"]), float(e.attrib["y"]), e.text or "")
        for e in ElementTree.fromstring(chart).iter("text")
        if e.attrib["class"].split()[0] == kind
    ]


def chart(lines: list[Line], *, level: tuple[str, float] | None = None) -> Markup:
    return line_chart(
        lines, title="t", x_label="x", y_label="y", x_text=lambda v: f"{v:g}", y_text=lambda v: f"{v:g}", level=level
    )


def line(label: str, *points: tuple[float, float]) -> Line:
    return Line(label=label, title=label, points=points, kind="one")


@pytest.mark.parametrize("values", [(0.013, 0.02), (170.0, 3600.0), (-4.0, 9.0), (1e-6, 2e-2), (5.0, 5.0), (0.0, 0.0)])
def test_ticks_are_few_round_and_on_the_axis(values: tuple[float, float]) -> None:
    axis = Axis.over(values)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(-1e-9 <= axis.share(tick) <= 1 + 1e-9 for tick in ticks)
    assert ticks == pytest.approx([float(f"{tick:.2g}") for tick in ticks])
    assert all(0 < axis.share(value) < 1 for value in values)


def test_a_wide_range_is_logarithmic_unless_it_is_not_positive() -> None:
    assert Axis.over([10.0, 1000.0]).log
    assert not Axis.over([10.0, 30.0]).log
    assert not Axis.over([-10.0, 1000.0]).log
    assert Axis.over([1.0, 10.0, 100.0]).share(10.0) == pytest.approx(0.5)


def test_names_of_lines_that_end_together_do_not_touch_and_stay_near_their_ends() -> None:
    lines = [line(f"line {i}", (0.5, 30.0), (1.0, 20 + 0.01 * i)) for i in range(6)] + [
        line("far", (0.5, 5), (1.0, 10))
    ]
    names = sorted(texts(chart(lines), "name"), key=lambda name: name[1])
    heights = [y for _, y, _ in names]
    assert all(below - above >= 14.9 for above, below in pairwise(heights))
    end = [float(e.attrib["cy"]) for e in ElementTree.fromstring(chart(lines)).iter("circle")][-1]
    assert names[-1][2] == "far"
    assert abs(names[-1][1] - end) < 6


def test_only_lines_with_a_label_are_named_and_all_have_a_title() -> None:
    drawn = chart(
        [Line(label="", title="trial <7>", points=[(0.5, 2.0), (1.0, 1.0)], kind="one"), line("a", (0.5, 3.0))]
    )
    assert [text for _, _, text in texts(drawn, "name")] == ["a"]
    titles = [e.text for e in ElementTree.fromstring(drawn).iter("title")]
    assert titles == ["trial <7>", "a"]


def test_a_level_far_below_the_curves_is_left_out_rather_than_flattening_them() -> None:
    near, far = chart([line("a", (0, 20.0), (1, 10.0))], level=("floor", 8.0)), ("floor", -400.0)
    assert "floor" in near
    assert "floor" not in chart([line("a", (0, 20.0), (1, 10.0))], level=far)


def test_a_forest_plot_shows_where_there_is_an_interval_and_where_none() -> None:
    rows = [
        Interval(label="a & b", value=-10.0, low=-20.0, high=0.0, text="-10%", kind="shown"),
        Interval(label="b", value=5.0, low=None, high=None, text="+5%", kind="control"),
    ]
    drawn = ElementTree.fromstring(forest_plot(rows, title="t", axis_label="x", zero_label="image-only"))
    dots = [e.attrib["class"] for e in drawn.iter("circle")]
    assert dots == ["dot shown", "dot control hollow"]
    whiskers = [e for e in drawn.iter("line") if e.attrib["class"].startswith("whisker")]
    assert len(whiskers) == 3  # the interval and its two ends
    assert "a & b" in [e.text for e in drawn.iter("text")]
    zero = next(float(e.attrib["x1"]) for e in drawn.iter("line") if e.attrib["class"] == "zero")
    low, high = (float(whiskers[0].attrib[name]) for name in ("x1", "x2"))
    assert low < (low + high) / 2 < high == pytest.approx(zero)


def test_the_parts_of_a_bar_are_to_scale() -> None:
    parts = [Part(label="training", value=30.0, kind="training"), Part(label="left", value=10.0, kind="left")]
    drawn = ElementTree.fromstring(stacked_bar(parts, total=40.0, title="t"))
    assert [(e.attrib["x"], e.attrib["width"]) for e in drawn.iter("rect")] == [("0", "750"), ("750", "250")]
