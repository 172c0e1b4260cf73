"""Cosine coefficients, dropped."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, KeptSharesMultiply, register, survival_step
from autopv.policy.ops.dct import from_dct, to_dct
from autopv.policy.ops.fields import uniform_field


@register
class SpectralMask(KeptSharesMultiply):
    """Each cosine coefficient but the mean independently dropped, in all channels at once.

    In all at once, because what a frequency shows keeps its colour: one channel's alone would leave coloured ripples.
    Coefficients are dropped independently and for good: steps compose exactly. With one draw, those dropped stay so.
    """

    name = "spectral_mask"
    magnitude_name = "share"
    unit = "share of the cosine coefficients that is dropped"
    low = 0.002
    high = 0.95
    deterministic = False
    exact = True
    monotone = True
    group = "missing"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """The share at which each coefficient is dropped, uniform in [0, 1); for the mean 1, which no share reaches."""
        batch, _, height, width = shape_BCHW
        drop_at_B1HW = uniform_field((batch, 1, height, width), generator=generator, device=device)
        drop_at_B1HW[..., 0, 0] = 1
        return {"drop_at_B1HW": drop_at_B1HW}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images of the coefficients that are left."""
        if target == source:
            return images_BCHW
        kept_B1HW = draw["drop_at_B1HW"] >= survival_step(source, target)
        return from_dct(to_dct(images_BCHW).mul_(kept_B1HW))
