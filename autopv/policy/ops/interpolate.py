"""Images drawn towards a field that is the same for all of them: mid-grey, or the mean of the donor bank.

Towards the image's own mean: autopv.policy.ops.contrast.
"""

import torch
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, KeptSharesMultiply, register

MID_GREY = 0.5


class _Interpolate(DeterministicOp, KeptSharesMultiply):
    """Kept shares multiply, since the field does not change on the way: steps compose exactly."""

    magnitude_name = "share"
    low = 0.01
    high = 1.0
    exact = True
    monotone = True
    group = "mixture"
    built_on = "torch: one line"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, of whose remaining difference from the field the share (1 - target) / (1 - source) is kept."""
        if target == source:  # nothing may be left to keep a share of
            return images_BCHW
        kept = (1 - target) / (1 - source)
        return torch.lerp(draw["field_1CHW"], images_BCHW, kept)


@register
class InterpolateGrey(_Interpolate):
    """The images drawn towards mid-grey: the same end for every image, with no information at all."""

    name = "interpolate_grey"
    unit = "share of mid-grey in the mixture"

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """Mid-grey."""
        del masks_BHW, donors_NCHW
        return {"field_1CHW": images_BCHW.new_full((1, 1, 1, 1), MID_GREY)}


@register
class InterpolateDataset(_Interpolate):
    """The images drawn towards the mean image of the donor bank: what all images of the domain share is kept."""

    name = "interpolate_dataset"
    unit = "share of the donors' mean image in the mixture"
    needs = frozenset({"donors"})

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The donors' mean image."""
        del images_BCHW, masks_BHW
        assert donors_NCHW is not None  # what it needs, it gets
        return {"field_1CHW": donors_NCHW.mean(dim=0, keepdim=True)}
