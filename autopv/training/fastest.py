"""Which way of carrying out a training is the fastest here, found out by trying."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from autopv.training.execution import Execution
from autopv.training.trainer import Trainer

# A training that is over sooner than this is not worth compiling for, and one of few steps not even timing.
WORTH_TRYING_S = 120.0
FEWEST_STEPS = 200
_WARM_UP_STEPS, _TIMED_STEPS = 2, 6
# Another way must save this share of the remaining time: a difference of less is noise, and compiling can go wrong.
_WORTH_CHANGING = 0.05


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen execution, seconds per step of each one tried (by its name), and what was left out and why."""

    execution: Execution
    step_s: Mapping[str, float]
    failed: Mapping[str, str]

    def describe(self) -> str:
        """One line: what is used, and what it was measured against."""
        tried = ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in self.step_s.items())
        failed = "".join(f"; {name} does not work here ({reason})" for name, reason in self.failed.items())
        return f"{self.execution.describe()} ({tried} a step{failed})"


def default_device() -> str:
    """Where trainings run unless told otherwise: a GPU if torch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_execution(device: torch.device | str) -> Execution:
    """What is used without trying: bfloat16 on a GPU that has it, float32 elsewhere; not compiled."""
    has_bfloat16 = torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return Execution(precision="bfloat16" if has_bfloat16 else "float32")


def fastest_execution(
    build: Callable[[Execution], Trainer],
    *,
    device: torch.device | str,
    precision: str | None = None,
    compiled: bool | None = None,
) -> Choice:
    """The fastest of the ways that `precision` and `compiled` leave open (None: open), for the whole of a training.

    build: makes a fresh trainer of the training in question; none of them is the one that is trained in the end.
    On a CPU bfloat16 is never taken unasked. Compiling is tried only where the training is long enough to earn it.
    """
    base = Execution(precision=precision or default_execution(device).precision)
    if compiled is not None:
        return Choice(execution=replace(base, compiled=compiled), step_s={}, failed={})
    trainer = build(base)
    if trainer.total_steps < FEWEST_STEPS:
        return Choice(execution=base, step_s={}, failed={})
    best_s = _step_s(trainer)
    step_s = {base.describe(): best_s}
    failed: dict[str, str] = {}
    if best_s * trainer.total_steps < WORTH_TRYING_S:
        return Choice(execution=base, step_s=step_s, failed=failed)
    candidate = replace(base, compiled=True)
    try:
        step_s[candidate.describe()] = _step_s(build(candidate))
    except (RuntimeError, OSError) as error:
        # No compiler on this machine, say: torch's own errors here are RuntimeErrors of many names.
        failed[candidate.describe()] = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        return Choice(execution=base, step_s=step_s, failed=failed)
    # What compiling took is spent already, and its result is kept for the training that follows.
    pays = step_s[candidate.describe()] < (1 - _WORTH_CHANGING) * best_s
    return Choice(execution=candidate if pays else base, step_s=step_s, failed=failed)


def _step_s(trainer: Trainer) -> float:
    """Seconds that a step takes once it has warmed up: the median of a few."""
    seconds = []
    for index in range(_WARM_UP_STEPS + _TIMED_STEPS):
        started_s = time.perf_counter()
        trainer.train_until((trainer.position + 1) / trainer.total_steps)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        if index >= _WARM_UP_STEPS:
            seconds.append(time.perf_counter() - started_s)
        if trainer.position >= trainer.total_steps:
            break
    return sorted(seconds)[len(seconds) // 2] if seconds else 0.0
