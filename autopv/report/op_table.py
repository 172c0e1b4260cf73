"""The corruptions in words: a table for the terminal, a page on each, and the table of the documentation."""

import inspect

from autopv.policy.ops import Op, get_op, op_names
from autopv.policy.ops.base import GROUPS

_COLUMNS = ("group", "op", "magnitude", "range", "random", "steps", "needs")


def grouped_ops() -> list[Op]:
    """Every op, group by group."""
    return sorted((get_op(name) for name in op_names()), key=lambda op: (GROUPS.index(op.group), op.name))


def op_lines() -> list[str]:
    """A table of all ops, one line each, under a heading."""
    rows = [_COLUMNS, *(_row(op) for op in grouped_ops())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def op_page(name: str) -> str:
    """Everything about one op. Raises: PolicyError naming the nearest known op."""
    op = get_op(name)
    return "\n".join(
        [
            f"{op.name} ({op.group}): {inspect.getdoc(type(op))}",
            "",
            f"magnitude  {op.magnitude_name} in [{op.low:g}, {op.high:g}]: {op.unit}",
            f"random     {_random(op)}",
            f"steps      {_steps(op)}",
            f"needs      {_needs(op)}",
            f"built on   {op.built_on}",
        ]
    )


def op_markdown() -> str:
    """The table of the documentation: what every op is built on, and why."""
    head = "| group | op | magnitude (range): unit | random | steps | needs | built on, and why |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for op in grouped_ops():
        magnitude = f"`{op.magnitude_name}` ({op.low:g} to {op.high:g}): {op.unit}"
        cells = (op.group, f"`{op.name}`", magnitude, _random(op), _steps(op), _needs(op), op.built_on)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _row(op: Op) -> tuple[str, ...]:
    magnitude, bounds = op.magnitude_name, f"{op.low:g} to {op.high:g}"
    return op.group, op.name, magnitude, bounds, _random(op), _steps(op), _needs(op)


def _random(op: Op) -> str:
    return "no" if op.deterministic else "yes"


def _steps(op: Op) -> str:
    return "exact" if op.exact else "approximate"


def _needs(op: Op) -> str:
    return ", ".join(sorted(op.needs)) or "nothing"
