"""A search on a cluster of two nodes, one of which is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

ALONE = Path(__file__).with_name("cluster_alone.py")


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_finishes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *("-n", "0"),
        str(ALONE),
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(tmp_path / "alone"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
