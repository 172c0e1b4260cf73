"""The import direction: a module may import from parts of lower rank; heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "autopv"

# A part may import itself and parts of lower rank; parts of equal rank do not know each other.
RANKS = {
    "errors": 0,
    "caching": 0,
    "policy": 1,
    "models": 1,
    "metrics": 1,
    "data": 1,
    "spaces": 2,
    "training": 3,
    "profile": 3,
    "verify": 4,
    "evaluation": 4,
    "search": 5,
    "report": 6,
    "cli": 7,
    "testing": 7,
}
ONLY_IN = {"ray": {"search"}, "optuna": {"search", "spaces"}}


def imports() -> Iterator[tuple[str, str, str]]:
    """(place, importing part, imported module) for every import statement of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        part = relative.parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative}:{node.lineno} imports relatively"
                names = [node.module or ""]
            else:
                continue
            for name in names:
                yield f"autopv/{relative}:{node.lineno}", part, name


def test_imports_point_down_only() -> None:
    offending = []
    for place, part, name in imports():
        pieces = name.split(".")
        if part == "__init__" or pieces[0] != "autopv" or len(pieces) == 1:
            continue
        if pieces[1] != part and RANKS[pieces[1]] >= RANKS[part]:
            offending.append(f"{place}: {part} must not import {name}")
    assert not offending, "\n".join(offending)


def test_ray_and_optuna_stay_in_their_parts() -> None:
    offending = [
        f"{place}: only {', '.join(sorted(ONLY_IN[name.split('.')[0]]))} may import {name}"
        for place, part, name in imports()
        if name.split(".")[0] in ONLY_IN and part not in ONLY_IN[name.split(".")[0]]
    ]
    assert not offending, "\n".join(offending)


def test_every_part_has_a_rank() -> None:
    parts = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith(("_", "."))
    }
    assert parts == set(RANKS)


def test_no_file_is_longer_than_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 400}
    assert not long


@pytest.mark.slow
def test_the_command_line_needs_no_heavy_library_for_help() -> None:
    code = "import sys; from autopv.cli import main\ntry: main(['search', '--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'ray', 'optuna', 'numpy', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
