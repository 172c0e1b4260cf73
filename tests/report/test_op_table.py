"""The words about ops: every op stands in them, with what it is built on."""

from pathlib import Path

import pytest

from autopv.errors import PolicyError
from autopv.policy.ops import get_op, op_names
from autopv.report.op_table import op_lines, op_markdown, op_page


def test_every_op_stands_in_both_tables_once() -> None:
    rows = [line.split()[1] for line in op_lines()[1:]]
    assert sorted(rows) == list(op_names())
    documented = [line.split("|")[2].strip(" `") for line in op_markdown().splitlines()[2:]]
    assert documented == rows


def test_every_row_of_the_documentation_has_all_its_cells() -> None:
    head, rule, *rows = op_markdown().splitlines()
    assert {line.count("|") for line in (head, rule, *rows)} == {head.count("|")}


@pytest.mark.parametrize("op", op_names())
def test_a_page_tells_the_magnitude_and_what_the_op_is_built_on(op: str) -> None:
    page = op_page(op)
    assert f"{get_op(op).magnitude_name} in [{get_op(op).low:g}, {get_op(op).high:g}]" in page
    assert get_op(op).built_on in page


def test_an_unknown_op_is_met_with_the_nearest() -> None:
    with pytest.raises(PolicyError, match="Did you mean 'erase'"):
        op_page("erasse")


def test_the_gallery_is_up_to_date() -> None:
    folder = Path(__file__).parents[2] / "experiments" / "op_gallery"
    page = (folder / "README.md").read_text(encoding="utf-8")
    remedy = "run `uv run python experiments/op_gallery/run.py`, look at the pictures, commit them"
    assert op_markdown() in page, remedy
    for op in op_names():
        assert f"![{op} at five magnitudes]({op}.png)" in page, remedy
        assert (folder / f"{op}.png").is_file(), remedy
