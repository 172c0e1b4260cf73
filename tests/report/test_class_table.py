"""Distances within classes as a table: for the summary of a run, and for its page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from autopv.report.class_table import class_table, compared_arms
from autopv.report.page.sections import SECTIONS
from autopv.report.summary import _classes_text


def figures(kernel: float) -> dict[str, Any]:
    return {"kernel": kernel, "standard_error": 10.0, "by_seed": [kernel]}


def made_result(*, recommended: str = "image-only") -> dict[str, Any]:
    distances = {"image-only": 50.0, "blur": 40.0, "noise": 60.0}
    return {
        "verdict": {
            "recommended": recommended,
            "comparisons": [{"arm": arm, "mean_distance": distance} for arm, distance in distances.items()],
        },
        "metrics": {"final": {"name": "fid", "extractor": "inception"}},
        "classes": {
            "num_reference": {"crack": 12, "good": 40},
            "too_few": ["rust"],
            "arms": {
                "image-only": {"crack": figures(90.0), "good": figures(20.0)},
                "blur": {"crack": figures(70.0), "good": figures(15.0)},
                "noise": {"good": figures(30.0)},
            },
        },
    }


def test_every_arm_has_a_column_the_nearest_first() -> None:
    table = class_table(made_result())
    assert table is not None
    assert table.metric == "kid"
    assert table.header == ["class", "real images", "blur", "image-only", "noise"]
    assert table.rows == [
        ["crack", "12", "70.0 ± 19.6", "90.0 ± 19.6", "-"],
        ["good", "40", "15.0 ± 19.6", "20.0 ± 19.6", "30.0 ± 19.6"],
    ]


def test_the_summary_compares_image_only_with_the_recommended_or_the_nearest_arm() -> None:
    assert compared_arms(made_result()) == ["image-only", "blur"]
    result = made_result(recommended="noise")
    assert compared_arms(result) == ["image-only", "noise"]
    table = class_table(result, arms=compared_arms(result))
    assert table is not None
    lines = _classes_text(table).splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["class", "crack", "good"]
    assert lines[-1] == "Too few real images to be measured: rust"


def test_results_without_classes_have_no_table() -> None:
    result = made_result()
    for nothing in ({"classes": None}, {"classes": {"num_reference": {}, "too_few": [], "arms": {}}}):
        assert class_table({**result, **nothing}) is None
    del result["classes"]  # as earlier versions wrote them
    assert class_table(result) is None


def test_the_page_shows_the_table() -> None:
    section = next(section for section in SECTIONS if section.slug == "classes")
    assert section.values(SimpleNamespace(result=None), None) is None  # type: ignore[arg-type]
    values = section.values(SimpleNamespace(result=made_result()), None)  # type: ignore[arg-type]
    assert values is not None
    loader = PackageLoader("autopv.report.page")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("classes.html")
    html = template.render(**values)
    assert "<td>crack</td>" in html
    assert html.count("± 19.6") == 5
    assert "Too few real images to be measured: rust." in html
    assert (Path(loader._template_root) / f"{section.slug}.html").is_file()
