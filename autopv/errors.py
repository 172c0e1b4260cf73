"""Errors a user can act on. Each message states the rule, the value received, where it stood, and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches


class AutopvError(Exception):
    """Something autopv cannot go on with, told in one message and without a traceback."""

    exit_code = 1


class InputError(AutopvError):
    """The user's input breaks a rule."""

    exit_code = 2


class PolicyError(InputError):
    """A policy breaks the policy language."""


class SpaceError(InputError):
    """A search space is malformed, or a policy lies outside it."""


class DataError(InputError):
    """Images that cannot be used as asked."""


class MetricError(InputError):
    """A metric that cannot be computed as asked, or two numbers that must not be compared."""


class ModelError(InputError):
    """A model that cannot be built as asked."""


class CheckpointError(InputError):
    """A checkpoint that is missing, damaged, or belongs to another training."""


class BudgetError(InputError):
    """A budget that cannot be read, or is too small for what it must pay for."""


class RunFolderError(InputError):
    """A run folder that is missing, in use, damaged, or holds something else."""


class StorageError(AutopvError):
    """A file that could not be written: a full disk, or no permission."""


class TrainingDiverged(AutopvError):
    """A loss, gradient or distance is no longer finite."""


class EndedAtOnce(KeyboardInterrupt):
    """A second Ctrl-C: what was under way has been killed, and the process is to end without asking it for anything."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error on an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names) or 'none'}."
