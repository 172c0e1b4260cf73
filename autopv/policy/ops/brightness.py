"""Brighter or darker as a whole."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, VariancesAdd, register, variance_step


@register
class Brightness(VariancesAdd):
    """One zero-mean normal offset per image, added to every pixel and channel; variances add: steps compose exactly."""

    name = "brightness"
    magnitude_name = "offset"
    unit = "standard deviation of the offset, images in [0, 1]"
    low = 0.002
    high = 0.5
    deterministic = False
    exact = True
    monotone = True
    group = "photometric"
    built_on = "torch: one line; kornia's and torchvision's jitter clamps, so its steps would not compose"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's offset in standard deviations."""
        return {"offset_B": torch.randn(shape_BCHW[0], generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images plus their offsets."""
        if target == source:
            return images_BCHW
        offset_B = draw["offset_B"].to(images_BCHW.dtype) * variance_step(source, target)
        return images_BCHW + offset_B[:, None, None, None]
