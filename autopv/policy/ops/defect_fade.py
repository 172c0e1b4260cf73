"""The defect, faded out: towards its beginning, the video shows a sound background where the defect emerges."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, register, shorter_side
from autopv.policy.ops.transplant import transplant

MARGIN = 0.02
"""Masks are drawn tightly: so much around them is healed in full, as a fraction of the shorter side."""
FEATHER = 0.04
"""Width of the soft edge outside that, as a fraction of the shorter side."""


@register
class DefectFade(DeterministicOp):
    """What the mask marks is blended with the image healed: filled with background from elsewhere in it.

    The healed image is made once, from the clean image (autopv.policy.ops.transplant): whatever else a policy does to a
    frame is, inside the mask, faded together with the defect. The mask is widened by a margin, so that no rim of the
    defect remains, and feathered outside that. An image whose mask is empty stays bit for bit as it is.
    A pixel that the feathered mask covers by m keeps the share 1 - target m of itself, and a step the ratio of the kept
    shares: exact.
    """

    name = "defect_fade"
    magnitude_name = "healed"
    unit = "share by which the defect gives way to the healed background"
    low = 0.01
    high = 1.0
    exact = True
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision inpaints"
    needs = frozenset({"masks"})

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The healed images, and how much of every pixel the feathered masks cover."""
        del donors_NCHW
        assert masks_BHW is not None  # what it needs, it gets
        covered_B1HW = _feathered(masks_BHW[:, None].to(images_BCHW.dtype), side_px=shorter_side(images_BCHW))
        return {"healed_BCHW": transplant(images_BCHW, covered_B1HW > 0), "covered_B1HW": covered_B1HW}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, drawn towards the healed ones where the masks are."""
        if target == source:
            return images_BCHW
        covered_B1HW = draw["covered_B1HW"]
        weight_B1HW = (target - source) * covered_B1HW / (1 - source * covered_B1HW)
        return torch.lerp(images_BCHW, draw["healed_BCHW"], weight_B1HW)


def _feathered(masks_B1HW: Tensor, *, side_px: int) -> Tensor:
    """1 on the mask and its margin, falling linearly to 0 over the feather."""
    feather_px = max(1, round(FEATHER * side_px / 2))  # on either side of the widened mask
    reach_px = round(MARGIN * side_px) + feather_px
    for kernel, padding in (((2 * reach_px + 1, 1), (reach_px, 0)), ((1, 2 * reach_px + 1), (0, reach_px))):
        masks_B1HW = F.max_pool2d(masks_B1HW, kernel, stride=1, padding=padding)
    return F.avg_pool2d(masks_B1HW, 2 * feather_px + 1, stride=1, padding=feather_px, count_include_pad=False)
