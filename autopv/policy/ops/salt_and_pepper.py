"""Pixels that are white or black, whatever the image."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, KeptSharesMultiply, register, survival_step
from autopv.policy.ops.fields import uniform_field


@register
class SaltAndPepper(KeptSharesMultiply):
    """Every pixel, independently, becomes 0 or 1 at even odds (all channels alike) with the probability asked for.

    A pixel is the image's own, so a larger image, whose neighbours tell more, hides less at the same share.
    Independent pixels survive a step with the ratio of survival probabilities, and one that is struck twice is still
    0 or 1 at even odds: steps compose exactly. With one draw a larger share strikes the same pixels and more of them.
    """

    name = "salt_and_pepper"
    magnitude_name = "share"
    unit = "share of the pixels"
    low = 0.002
    high = 0.9
    deterministic = False
    exact = True
    monotone = True
    group = "signal"
    built_on = "torch: kornia draws anew for every share, so its noise cannot grow; torchvision has none"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """A uniform value per pixel in [-1, 1): its size says from which share on it is struck, its sign with what."""
        batch, _, height, width = shape_BCHW
        uniform_B1HW = uniform_field((batch, 1, height, width), generator=generator, device=device)
        return {"signed_B1HW": 2 * uniform_B1HW - 1}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, the missing share of what survives struck."""
        if target == source:
            return images_BCHW
        signed_B1HW = draw["signed_B1HW"]
        struck_B1HW = signed_B1HW.abs() < survival_step(source, target)
        return torch.where(struck_B1HW, (signed_B1HW > 0).to(images_BCHW.dtype), images_BCHW)
