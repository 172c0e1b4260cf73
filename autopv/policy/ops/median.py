"""Running median: small things go, edges stay."""

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops.base import DeterministicOp, Draw, register, shorter_side


@register
class Median(DeterministicOp):
    """A cascade of medians of three pixels, along columns and then along rows; their spacing doubles stage by stage.

    The first stage is the common separable 3x3 median. Stage k takes pixels 2^k apart, and then follows the spacings
    back down to 1: wide medians alone split what is a little too large for them into ghosts. After k stages the window
    is 2^(k+1) - 1 pixels wide; between two widths both results are blended, so that every magnitude matters at every
    size of image. It behaves like a full median of that window (small things go, edges stay sharp), at a cost that
    does not grow with its area, and removes a little less. Beyond borders the image is reflected about its outermost
    pixels.
    A step takes the cascade up where the source left it. That is exact where the source is at a whole stage; elsewhere
    the blend, not the image, is what is filtered on: approximate.
    """

    name = "median"
    magnitude_name = "window"
    unit = "distance between the window's outermost pixels, as a fraction of the shorter side"
    low = 0.005
    high = 0.2
    exact = False
    monotone = True
    group = "blur"
    built_on = "torch: kornia has odd windows only, at 5 to 20 times the time; torchvision has none"

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, filtered by the stages that are missing."""
        del draw
        side_px = shorter_side(images_BCHW)
        spacing, before = 1, 0  # of this stage, and the reach of those before it, to either side
        while before < target * side_px / 2:
            done, wanted = (min(1.0, max(0.0, (m * side_px / 2 - before) / spacing)) for m in (source, target))
            if wanted > done:
                filtered_BCHW = _stage(images_BCHW, spacing=spacing)
                # Of what the source has not blended in yet, the share that is wanted.
                share = (wanted - done) / (1 - done)
                images_BCHW = filtered_BCHW if share == 1 else torch.lerp(images_BCHW, filtered_BCHW, share)
            spacing, before = 2 * spacing, before + spacing
        return images_BCHW


def _stage(images_BCHW: Tensor, *, spacing: int) -> Tensor:
    """Medians of this spacing, half of it, and so on down to 1."""
    while spacing > 0:
        images_BCHW = _median(images_BCHW, spacing=spacing)
        spacing //= 2
    return images_BCHW


def _median(images_BCHW: Tensor, *, spacing: int) -> Tensor:
    """Medians of three pixels `spacing` apart: of the columns, then of the rows."""
    height, width = images_BCHW.shape[-2:]
    tall_BCHW = F.pad(images_BCHW, (0, 0, spacing, spacing), mode="reflect")
    images_BCHW = _of_three(*(tall_BCHW.narrow(-2, i * spacing, height) for i in range(3)))
    wide_BCHW = F.pad(images_BCHW, (spacing, spacing, 0, 0), mode="reflect")
    return _of_three(*(wide_BCHW.narrow(-1, i * spacing, width) for i in range(3)))


def _of_three(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """The middle one, elementwise."""
    return torch.clamp(third, torch.minimum(first, second), torch.maximum(first, second))
