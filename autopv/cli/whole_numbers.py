"""Whole numbers as values of flags."""

import argparse


def positive(text: str) -> int:
    """The number, at least 1. Raises: ArgumentTypeError."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return value


def not_negative(text: str) -> int:
    """The number, at least 0. Raises: ArgumentTypeError."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, but got {text!r}")
    return value
