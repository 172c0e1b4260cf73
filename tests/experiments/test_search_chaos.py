"""The short form of experiments/search_chaos: real processes, two driver kill -9s and a worker kill in one search."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "search_chaos"


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """120 grey 16 px images, each a ramp of its own slope with noise, in one .npy file."""
    rng = np.random.default_rng(0)
    slopes = rng.uniform(-80, 80, (120, 1, 1))
    images = 128 + slopes * np.linspace(0, 1, 16)[None, None, :] + rng.normal(0, 12, (120, 16, 16))
    path = tmp_path / "ramps.npy"
    np.save(path, images.clip(0, 255).astype(np.uint8))
    return path


@pytest.mark.slow
@pytest.mark.skipif(
    "AUTOPV_EXPERIMENTS" not in os.environ,
    reason="minutes; tests/search/test_interrupted_jobs.py kills too: run with AUTOPV_EXPERIMENTS=1",
)
def test_a_search_under_kills_keeps_its_promises(image_file: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    command = [sys.executable, str(FOLDER / "run.py"), "--short", "--data", str(image_file), "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((work / "result.json").read_text(encoding="utf-8"))
    totals = result["totals"]
    assert (totals["driver_kills"], totals["worker_kills"]) == (2, 1)
    # The promises would hold of a search that did nothing.
    assert totals["finished_before_a_kill"] >= 1
    assert totals["workers_cpu_s"] > 0
    assert all(promise["holds"] for promise in result["promises"])
    assert (work / "table.md").read_text(encoding="utf-8") in done.stdout
