"""diffusers' U-Net as a generator family of autopv: a rectified flow of whole pseudo videos, frames as channels.

Source: Liu et al., arXiv 2209.03003 (rectified flow: the loss, eq. 1 with straight paths; sampling by Euler's method).
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autopv.errors import ModelError
from autopv.models.base import Sampling, VideoGenerator

WIDTHS = {"narrow": (24, 48), "wide": (64, 128, 256)}
Shape = tuple[int, int, int]


class UNetFlow(VideoGenerator):
    """Carries noise along straight lines to videos; with one frame, to images."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {"narrow": (16, 8, 32), "wide": (32, 64)}
    plan_defaults: ClassVar[Mapping[str, float]] = {"learning_rate": 2e-3}

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int) -> None:
        super().__init__(preset=preset, size_px=size_px, channels=channels, num_frames=num_frames)
        self.shape = (num_frames * channels, size_px, size_px)
        self.network = _network(preset, self.shape)
        self.sampling: Sampling = Sampling(num_steps=20)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        chance: dict[str, Any] = {"generator": generator, "device": self.device}
        return {"time": torch.rand(num_images, **chance), "start": torch.randn(num_images, *self.shape, **chance)}

    def loss_terms(
        self, frames_BTCHW: Tensor, *, frame_weights_T: Tensor, noise: Mapping[str, Tensor], kl_weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error of the velocity at a random time, of each frame at its weight."""
        del kl_weight  # there is no divergence to weigh
        start, end = noise["start"], (2 * frames_BTCHW - 1).flatten(1, 2)
        here = torch.lerp(start, end, noise["time"].view(-1, 1, 1, 1))
        errors = (self._velocity(here, noise["time"]) - (end - start)).square()
        errors_T = errors.unflatten(1, (self.num_frames, self.channels)).mean((0, 2, 3, 4))
        return (frame_weights_T * errors_T).sum(), {f"error_{t}": error for t, error in enumerate(errors_T, 1)}

    @torch.no_grad()
    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        self.check_unlabelled(labels)
        if self.sampling.churn:
            raise ModelError(f"a flow adds no noise on its way, but got churn={self.sampling.churn}: leave it out")
        here = temperature * torch.randn(num_images, *self.shape, generator=generator, device=self.device)
        for step in range(self.sampling.num_steps):
            time = torch.full((num_images,), step / self.sampling.num_steps, device=self.device)
            here = here + self._velocity(here, time) / self.sampling.num_steps
        return ((here + 1) / 2).clamp(0, 1).unflatten(1, (self.num_frames, self.channels))

    def flops(self) -> float:
        return _flops(self.preset, self.shape)

    def _velocity(self, here: Tensor, time: Tensor) -> Tensor:
        # The network tells times apart that are about 1 apart.
        velocity: Tensor = self.network(here, 1000 * time, return_dict=False)[0]
        return velocity.float()


def _network(preset: str, shape: Shape) -> UNet2DModel:
    depth = len(WIDTHS[preset])
    return UNet2DModel(
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=WIDTHS[preset],
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=["DownBlock2D"] * (depth - 1) + ["AttnDownBlock2D"],
        up_block_types=["AttnUpBlock2D"] + ["UpBlock2D"] * (depth - 1),
    )


@cache
def _flops(preset: str, shape: Shape) -> float:
    """Of one pass over one image: counted, without computing anything, on torch's device for shapes."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        _network(preset, shape)(torch.empty(1, *shape), torch.empty(1))
    return float(counter.get_total_flops())
