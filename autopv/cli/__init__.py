"""The command line: parsing and printing only. Heavy imports wait until a command runs, so that help is instant."""

from autopv.cli.main import main

__all__ = ["main"]
