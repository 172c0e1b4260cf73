"""A small set of real-looking images and the command line, run as users run it."""

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from launching import RunCli, cli_command, search
from torch import nn


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 grey 16 px images, each a ramp of its own slope with noise, in one .npy file."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 16)
    slopes = rng.uniform(-80, 80, (160, 1, 1))
    images = 128 + slopes * ramp[None, None, :] + rng.normal(0, 12, (160, 16, 16))
    path = tmp_path_factory.mktemp("data") / "ramps.npy"
    np.save(path, images.clip(0, 255).astype(np.uint8))
    return path


@pytest.fixture(scope="session")
def quick_metric(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A metric that costs next to nothing: its features are the means of 8 x 8 cells. The default's network would
    take half the time of a job this small.
    """
    path = tmp_path_factory.mktemp("network") / "cells.pt"
    network = nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(network), path)
    return f"kid_{path}"


@pytest.fixture
def temp_folder() -> Iterator[Path]:
    """A temporary folder of the driver's own, with a short name: Ray's sockets have paths of limited length."""
    with tempfile.TemporaryDirectory(prefix="pv", dir="/tmp") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """Runs `autopv ARGUMENTS` in a process of its own."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cli_command(arguments), capture_output=True, text=True, timeout=timeout, env=dict(os.environ), check=False
        )

    return run


@pytest.fixture(scope="session")
def read_only(image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The images, in a folder of their own in which nobody may write (but root may)."""
    folder = tmp_path_factory.mktemp("read_only")
    path = folder / "images.npy"
    shutil.copy(image_file, path)
    for made in (path, folder):
        made.chmod(0o555)
    yield path
    folder.chmod(0o755)


@pytest.fixture(scope="session")
def data(read_only: Path, quick_metric: str) -> tuple[str, ...]:
    """Options that name the images and the metric of every job here."""
    return ("--data", str(read_only), "--metric", quick_metric)


@pytest.fixture(scope="session")
def finished(data: tuple[str, ...], run_cli: RunCli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 8 trials and one block, and what it printed. Made once for all test processes; read it, or copy it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    out, printed = root / "finished" / "run", root / "finished" / "printed.txt"
    out.parent.mkdir(exist_ok=True)
    with FileLock(root / "finished.lock"):
        if not printed.exists():
            done = run_cli(*search(data, out, budget="8trials"))
            assert done.returncode == 0, done.stderr
            printed.write_text(done.stdout)
    return out, printed.read_text()
