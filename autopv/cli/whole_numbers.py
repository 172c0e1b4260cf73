"""Whole numbers as values of flags."""

import argparse


def positive(text: str) -> int:
    """The number, at least 1. Raises: ArgumentTypeError."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """The number, at least 0. Raises: ArgumentTypeError."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, but got {text!r}")
    return value
