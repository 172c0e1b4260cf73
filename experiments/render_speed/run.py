"""Times rendering beside kornia and torchvision in one run, on one thread; writes result.json and table.md here."""

import argparse
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op
from autopv.search.environment import environment

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
SHAPE_BCHW = (64, 3, 64, 64)
NUM_FRAMES = 8
RANDOM_CHAINS = 5
SIDES = ("autopv", "kornia", "torchvision")


def chain(*layers: tuple[str, float]) -> Policy:
    """Eight frames, each from the next, every layer over all pseudo frames."""
    return Policy(
        num_frames=NUM_FRAMES,
        layers=tuple(Layer(op=op, magnitude=m, frames=(1, NUM_FRAMES - 1)) for op, m in layers),
    )


def chains() -> dict[str, Policy]:
    """The policies compared, by name."""
    from rivals import KORNIA_OPS

    named = {
        "(a) blur + noise": chain(("gaussian_blur", 0.06), ("gaussian_noise", 0.3)),
        "(b) erase + rotate + contrast": chain(("erase", 0.4), ("rotate", 10.0), ("contrast", 0.6)),
        "(c) scratch + spot + jpeg": chain(("scratch", 0.8), ("spot", middle("spot")), ("jpeg", 0.7)),
    }
    for seed in range(RANDOM_CHAINS):
        ops = random.Random(seed).sample(KORNIA_OPS, 4)
        named[f"(d{seed}) {' + '.join(ops)}"] = chain(*((op, middle(op)) for op in ops))
    return named


def middle(op: str) -> float:
    """The middle of an op's range, on a logarithmic scale."""
    return float((get_op(op).low * get_op(op).high) ** 0.5)


def single_ops() -> dict[str, Policy]:
    """One layer each: where autopv wins and where it loses."""
    from rivals import KORNIA_OPS

    return {op: chain((op, middle(op))) for op in KORNIA_OPS}


def renderer(side: str, policy: Policy) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """How one side makes this policy's videos, and the ops it lacks."""
    if side == "autopv":
        generator = torch.Generator().manual_seed(0)
        return lambda images: policy.render(images, generator=generator), []
    from rivals import kornia_step, rival, torchvision_step

    return rival(policy, kornia_step if side == "kornia" else torchvision_step)


def times_ms(functions: dict[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """Each function's median time, all called in turn, so that a busy machine slows all alike."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if number > 0:  # the first round warms up
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in taken.items()}


def compare(name: str, policy: Policy, *, rounds: int, memory: bool = False) -> dict[str, Any]:
    """One row: times, frames per second, ratios, and what each side lacks."""
    images_BCHW = torch.rand(SHAPE_BCHW, generator=torch.Generator().manual_seed(0))
    noise_shape = (SHAPE_BCHW[0], NUM_FRAMES - 1, *SHAPE_BCHW[1:])
    functions: dict[str, Callable[[], object]] = {"randn": lambda: torch.randn(noise_shape)}
    missing: dict[str, list[str]] = {}
    for side in SIDES:
        render, missing[side] = renderer(side, policy)
        if len(missing[side]) < len(policy.layers):
            functions[side] = lambda render=render: render(images_BCHW)  # type: ignore[misc]
    medians = times_ms(functions, rounds=rounds)
    own = medians["autopv"]
    row: dict[str, Any] = {
        "name": name,
        "policy": policy.describe(),
        "ms": {key: round(value, 2) for key, value in medians.items()},
        "frames_per_s": round(1000 * SHAPE_BCHW[0] * NUM_FRAMES / own),
        "over_randn": round(own / medians["randn"], 2),
        "speedup": {side: round(medians[side] / own, 2) for side in SIDES[1:] if side in medians},
        "missing": {side: lacks for side, lacks in missing.items() if lacks},
    }
    if memory:
        row["peak_mib"] = {side: peak_mib(side, name) for side in SIDES if side in medians}
    print(json.dumps(row), flush=True)
    return row


def peak_mib(side: str, name: str) -> float:
    """How far one rendering raises the resident memory of a fresh process that has rendered one image before."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", side, name], capture_output=True, text=True, check=True, env=os.environ
    )
    return float(done.stdout.splitlines()[-1])


def child(side: str, name: str) -> None:
    render, _ = renderer(side, chains()[name])
    images_BCHW = torch.rand(SHAPE_BCHW, generator=torch.Generator().manual_seed(0))
    render(images_BCHW[:1])
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of the imports, is forgotten
    before = memory_kib("VmHWM")
    render(images_BCHW)
    print(round((memory_kib("VmHWM") - before) / 1024, 1))


def memory_kib(key: str) -> int:
    """One of the kernel's figures about this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def on_gpu() -> dict[str, Any] | None:
    """Frames per second of chain (a) on a GPU, with synchronisation inside forbidden; None without one."""
    if not torch.cuda.is_available():
        return None
    policy, generator = chains()["(a) blur + noise"], torch.Generator().manual_seed(0)
    images_BCHW = torch.rand(SHAPE_BCHW, device="cuda")
    policy.render(images_BCHW, generator=generator)  # fills the cache of matrices
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    started, rounds = time.perf_counter(), 50
    for _ in range(rounds):
        policy.render(images_BCHW, generator=generator)
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    return {"device": torch.cuda.get_device_name(), "frames_per_s": round(rounds * 64 * NUM_FRAMES / seconds)}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = ["| chain | autopv, ms | frames/s | over randn | kornia / autopv | torchvision / autopv | peak MiB |"]
    lines.append("|" + "---|" * 7)
    for row in [*result["chains"], *result["single_ops"]]:
        cells = [row["name"], row["ms"]["autopv"], row["frames_per_s"], f"{row['over_randn']}x"]
        for side in SIDES[1:]:
            ratio = row["speedup"].get(side)
            lacks = row["missing"].get(side)
            cells.append(
                "has none" if ratio is None else f"{ratio}x" + (f" (without {', '.join(lacks)})" if lacks else "")
            )
        peaks = row.get("peak_mib", {})
        cells.append(", ".join(f"{side} {peak:.0f}" for side, peak in peaks.items()) or "")
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    require_one_thread()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.child:
        child(*options.child)
        return
    result = {
        "shape_BCHW": SHAPE_BCHW,
        "num_frames": NUM_FRAMES,
        "rounds": options.rounds,
        "threads": 1,
        "versions": environment(budget_device="cpu") | {"kornia": version("kornia")},
        "chains": [compare(name, policy, rounds=options.rounds, memory=True) for name, policy in chains().items()],
        "single_ops": [compare(name, policy, rounds=options.rounds) for name, policy in single_ops().items()],
        "gpu": on_gpu(),
    }
    (HERE / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "table.md").write_text(table(result))


if __name__ == "__main__":
    main()
