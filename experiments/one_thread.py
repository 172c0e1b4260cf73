"""Experiments run several trainings or timings side by side: threads of one process would slow those of another."""

import os


def require_one_thread() -> None:
    """Nothing; ends the program where it was not started with one thread per process."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("run this as in README.md, with OMP_NUM_THREADS=1: one thread per process")
