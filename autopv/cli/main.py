"""Runs one command: its exit code, one message for what went wrong, and an orderly end on Ctrl-C and SIGTERM."""

import argparse
import atexit
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from autopv.cli.parser import make_parser
from autopv.errors import AutopvError, EndedAtOnce

_INTERRUPTED = 128


class _Terminated(KeyboardInterrupt):
    """SIGTERM: ends like Ctrl-C, with its own exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 success, 1 failed run, 2 bad input, 130 or 143 interrupted."""
    arguments = make_parser().parse_args(argv)
    _terminated.clear()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = arguments.run(arguments)
    except AutopvError as error:
        print(f"autopv: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number = signal.SIGTERM if isinstance(interrupt, _Terminated) or _terminated else signal.SIGINT
        resume = _resume_command(arguments, given=sys.argv[1:] if argv is None else argv)
        print(f"\nautopv: interrupted.{' To go on: ' + resume if resume else ''}", file=sys.stderr)
        if isinstance(interrupt, EndedAtOnce):
            sys.stdout.flush()
            atexit.register(os._exit, _INTERRUPTED + number)  # before Ray's own, which waits for what was killed
        return _INTERRUPTED + number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


_terminated: list[int] = []


def _terminate(number: int, _: object) -> None:
    """Ends like Ctrl-C does, so that Ray and the ledger are closed in order."""
    _terminated.append(number)
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signal.default_int_handler):
        os.kill(os.getpid(), signal.SIGINT)  # Ray Tune stops on this one
        return
    raise _Terminated


def _resume_command(arguments: argparse.Namespace, *, given: Sequence[str]) -> str | None:
    if (
        arguments.command in ("search", "resume")
        and arguments.out is not None
        and (arguments.out / "run.json").exists()
    ):
        return f"autopv resume {arguments.out}"
    if arguments.command == "train":
        holds_checkpoint = (arguments.out / "checkpoint.safetensors").exists()
        return shlex.join(["autopv", *given, *(["--resume"] if holds_checkpoint and not arguments.resume else [])])
    if arguments.command == "evaluate":
        return "the same command (features that were finished are kept)"
    return None
