"""What training and sampling cost by the length of the video: writes result.json and table.md here.

Every row is its own process, so that its peak memory is its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from autopv.policy import Layer, Policy
from autopv.search.environment import environment
from autopv.training.execution import Execution
from autopv.training.learner import Learner
from autopv.training.measure import sample_images
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # what experiments share
from one_thread import require_one_thread

HERE = Path(__file__).parent
LENGTHS = (1, 2, 4, 8)
WARM_UP_STEPS, NUM_STEPS = 10, 60
NUM_SAMPLES = 512


def policy(num_frames: int) -> Policy:
    """A blur, the control of every search; image-only for one frame."""
    if num_frames == 1:
        return Policy.image_only()
    layer = Layer(op="gaussian_blur", magnitude=0.1, frames=(1, num_frames - 1))
    return Policy(num_frames=num_frames, frame_loss_weight=0.1, layers=(layer,))


class Clock:
    """Seconds by kind of work, of functions that it wraps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def wrap(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **keywords: Any) -> Any:
            started_s = self.now_s()
            result = function(*args, **keywords)
            self.seconds[kind] += self.now_s() - started_s
            return result

        return timed


def watch(trainer: Trainer) -> Clock:
    """A clock on rendering, forward, backward and optimiser of every step."""
    clock = Clock(trainer.device)
    learner: Learner = trainer.learner
    Policy.render = clock.wrap("rendering", Policy.render)  # type: ignore[method-assign]
    learner._loss_terms = clock.wrap("forward", learner._loss_terms)  # type: ignore[method-assign]
    torch.autograd.backward = clock.wrap("backward", torch.autograd.backward)
    learner._clip = clock.wrap("optimiser", learner._clip)  # type: ignore[method-assign]
    learner._optimizer.step = clock.wrap("optimiser", learner._optimizer.step)  # type: ignore[method-assign]
    torch._foreach_lerp_ = clock.wrap("optimiser", torch._foreach_lerp_)  # type: ignore[assignment]
    return clock


def measure_row(options: argparse.Namespace) -> dict[str, Any]:
    """Steps a second without and with the clock, shares of the time, peak memory, samples a second."""
    torch.set_num_threads(1)
    shape = (1600, options.channels, options.size, options.size)
    images_NCHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(
        options.model,
        preset=options.preset,
        size_px=options.size,
        channels=options.channels,
        policy=policy(options.row[0]),
        images_NCHW=images_NCHW,
        plan=TrainingPlan(total_flops=1e18, batch_size=options.batch),
        seed=0,
        device=options.device,
        execution=Execution(precision=options.precision, compiled=bool(options.row[1])),
    )

    def steps(count: int) -> float:
        started_s = time.perf_counter()
        trainer.train_until((trainer.position + count) / trainer.total_steps)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started_s

    steps(WARM_UP_STEPS)
    plain_s = steps(NUM_STEPS)
    clock = watch(trainer)
    watched_s = steps(NUM_STEPS)
    model = trainer.learner.averaged_model()
    sample_images(model, num_images=32, seed=0)
    started_s = time.perf_counter()
    sample_images(model, num_images=NUM_SAMPLES, seed=0)
    sampling_s = time.perf_counter() - started_s
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if trainer.device.type == "cuda":
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
    shares = {kind: round(seconds / watched_s, 4) for kind, seconds in clock.seconds.items()}
    return {
        "num_frames": options.row[0],
        "compiled": bool(options.row[1]),
        "steps_per_s": round(NUM_STEPS / plain_s, 2),
        "gflops_per_s": round(trainer.flops_per_step * NUM_STEPS / plain_s / 1e9, 1),
        "flops_per_step": trainer.flops_per_step,
        "shares": {**shares, "outside": round(1 - sum(shares.values()), 4)},
        "peak_mib": round(peak_mib),
        "samples_per_s": round(NUM_SAMPLES / sampling_s),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="hvae")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--result", default="result", help="name of the JSON file and of the table written here")
    parser.add_argument("--row", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measure_row(options)))
        return
    require_one_thread()
    rows = []
    for compiled in (0, 1):
        for num_frames in LENGTHS:
            command = [sys.executable, __file__, *sys.argv[1:], "--row", str(num_frames), str(compiled)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(rows[-1]), flush=True)
    budget_device = "gpu" if options.device == "cuda" else "cpu"
    setting = {name: value for name, value in vars(options).items() if name not in ("row", "result")}
    result = {**setting, "versions": environment(budget_device=budget_device), "rows": rows}
    (HERE / f"{options.result}.json").write_text(json.dumps(result, indent=2) + "\n")
    kinds = ("rendering", "forward", "backward", "optimiser", "outside")
    lines = [
        "| T | compiled | steps/s | GFLOP/s | " + " | ".join(kinds) + " | peak MiB | samples/s |",
        "|---" * (6 + len(kinds)) + "|",
    ]
    for row in rows:
        shares = " | ".join(f"{row['shares'].get(kind, 0):.0%}" for kind in kinds)
        lines.append(
            f"| {row['num_frames']} | {'yes' if row['compiled'] else 'no'} | {row['steps_per_s']} | "
            f"{row['gflops_per_s']} | {shares} | {row['peak_mib']} | {row['samples_per_s']} |"
        )
    (HERE / f"{options.result}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
