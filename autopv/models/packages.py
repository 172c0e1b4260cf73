"""Packages that one family alone needs, imported when it is built: they take seconds."""

import importlib
import warnings
from typing import Any


def import_package(name: str) -> Any:
    """The module; what torch deprecates in parts of it that are not used here is not told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module(name)
