"""Times the Fréchet distance beside the published matrix square root, on one thread; writes result.json here."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import scipy.linalg
import torch
from torch import Tensor

from autopv.metrics.frechet import frechet_distance

NUM_IMAGES = 512
WIDTHS = (1280, 2048)  # lite0's and Inception's features


def by_sqrtm(a_ND: Tensor, b_ND: Tensor) -> float:
    """The distance by scipy.linalg.sqrtm, as in the published code, without its retry on singular products."""
    a, b = a_ND.double().numpy(), b_ND.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(np.real(root)))


def seconds(
    function: Callable[[Tensor, Tensor], float], a: Tensor, b: Tensor, *, repeats: int
) -> tuple[list[float], float]:
    """Wall time of each repeat, and the value."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = function(a, b)
        times.append(time.perf_counter() - start)
    return times, value


def features(width: int, *, seed: int) -> Tensor:
    """Non-negative and correlated, like pooled features of a network."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(width)) / width**0.5
    return (torch.randn(NUM_IMAGES, width, generator=generator) @ mixing).relu()


def processor() -> str:
    """The CPU's model name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The checked-out commit, marked where autopv/metrics differs from it."""
    here = Path(__file__).parent
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
    ).stdout.strip()
    status = ["git", "status", "--porcelain", ":/autopv/metrics", "."]
    changed = subprocess.run(status, cwd=here, capture_output=True, text=True, check=True).stdout
    return head + ("-dirty" if changed.strip() else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=9, help="repeats of the fast route; the slow one runs once")
    options = parser.parse_args()
    # SciPy's threads are counted when it is loaded, so this cannot be set from here.
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("run this as in README.md, with OMP_NUM_THREADS=1: both sides are timed on one thread")
    rows = []
    for width in WIDTHS:
        a, b = features(width, seed=options.seed), features(width, seed=options.seed + 1)
        frechet_distance(a, b)
        fast, value = seconds(frechet_distance, a, b, repeats=options.repeats)
        slow, slow_value = seconds(by_sqrtm, a, b, repeats=1)
        median = float(np.median(fast))
        rows.append(
            {
                "num_features": width,
                "frechet_distance_s": {"median": median, "min": min(fast), "max": max(fast)},
                "sqrtm_s": slow[0],
                "sqrtm_over_frechet_distance": slow[0] / median,
                "value": value,
                "relative_difference": abs(value - slow_value) / value,
            }
        )
        print(json.dumps(rows[-1]))
    result = {
        "commit": commit(),
        "seed": options.seed,
        "n": NUM_IMAGES,
        "data": "random features, made from the seed",
        "device": f"cpu, 1 thread: {processor()}",
        "repeats": options.repeats,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
        "rows": rows,
    }
    Path(__file__).with_name("result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
