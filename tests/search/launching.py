"""autopv as a command of its own, with the interpreter that runs the tests."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHORT = ("--trial-steps", "12", "--seeds", "1", "--workers", "1")

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def cli_command(arguments: Sequence[str]) -> list[str]:
    """The command line that runs autopv with this interpreter."""
    return [sys.executable, "-m", "autopv.cli", *arguments]


def search(data: Sequence[str], out: Path, *, budget: str) -> list[str]:
    """Arguments of a search that takes seconds a trial. data: the options that name images and metric."""
    return ["search", *data, "--budget", budget, "--out", str(out), *SHORT]


def result_of(folder: Path) -> dict[str, Any]:
    """What result.json of a run folder says."""
    record: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return record
