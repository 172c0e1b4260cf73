"""Keeps what the parts of this experiment measured in result.json, and tells it in table.md."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def record(part: str, measured: Mapping[str, Any], *, out: Path = HERE) -> None:
    """Writes one part's numbers into result.json beside those of the others, and table.md anew."""
    path = out / "result.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    result[part] = measured
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (out / "table.md").write_text("\n".join(_table(result)) + "\n", encoding="utf-8")


def _table(result: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for part, measured in result.items():
        lines += [f"## {part}", "", "| | " + " | ".join(measured["rows"]) + " |"]
        lines.append("|---" * (len(measured["rows"]) + 1) + "|")
        names = dict.fromkeys(name for row in measured["rows"].values() for name in row)
        for name in names:
            cells = [_text(row.get(name, "")) for row in measured["rows"].values()]
            lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines[:-1]


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
