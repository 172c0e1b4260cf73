"""autopv as a command of its own, with the interpreter that runs the tests."""

import subprocess
import sys
from collections.abc import Callable, Sequence

RunCli = Callable[..., subprocess.CompletedProcess[str]]


def cli_command(arguments: Sequence[str]) -> list[str]:
    """The command line that runs autopv with this interpreter."""
    return [sys.executable, "-m", "autopv.cli", *arguments]
