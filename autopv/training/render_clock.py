"""How long rendering takes, without slowing it down."""

import time

import torch

# A GPU is waited for twice in each step that is timed, so only every so many steps are.
_GPU_STEPS = 64


class RenderClock:
    """Adds up the seconds spent inside its `with` blocks, on a GPU from every 64th of them.

    Work on a GPU is asynchronous: what is not waited for cannot be timed. The first block is left out there, since it
    loads and compiles what the others find ready.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._on_gpu = device.type == "cuda"
        self._num_blocks = 0
        self._start_s = 0.0

    def __enter__(self) -> None:
        if self._is_timed():
            self._start_s = self._now_s()

    def __exit__(self, *_: object) -> None:
        if self._is_timed():
            self.seconds += (self._now_s() - self._start_s) * (_GPU_STEPS if self._on_gpu else 1)
        self._num_blocks += 1

    def _is_timed(self) -> bool:
        return not self._on_gpu or self._num_blocks % _GPU_STEPS == 1

    def _now_s(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
