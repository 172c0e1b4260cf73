"""Loss of contrast."""

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, KeptSharesMultiply, register


@register
class Contrast(DeterministicOp, KeptSharesMultiply):
    """The images drawn towards their own mean colour, which does not change on the way: steps compose exactly.

    At 1 nothing but the mean colour is left, the same limit that an endless blur has.
    """

    name = "contrast"
    magnitude_name = "loss"
    unit = "share of the contrast that is lost"
    low = 0.01
    high = 1.0
    exact = True
    monotone = True
    group = "photometric"
    built_on = "torch: one line"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, of whose remaining contrast the share (1 - target) / (1 - source) is kept."""
        del draw
        if target == source:  # nothing may be left to keep a share of
            return images_BCHW
        kept = (1 - target) / (1 - source)
        return torch.lerp(images_BCHW.mean(dim=(-2, -1), keepdim=True), images_BCHW, kept)
