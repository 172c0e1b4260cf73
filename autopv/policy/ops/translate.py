"""A shift of the image."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, shorter_side, variance_step
from autopv.policy.ops.warp import centres, folded, read_at


@register
class Translate(Op):
    """Each image moved by a zero-mean normal offset, by parts of a pixel too; beyond the border it is reflected.

    Variances of offsets add, but every step resamples (bilinearly) and reflects anew: approximate.
    """

    name = "translate"
    magnitude_name = "offset"
    unit = "standard deviation of the offset down and of that across, as a fraction of the shorter side"
    low = 0.001
    high = 0.3
    deterministic = False
    exact = False
    monotone = True
    group = "geometry"
    built_on = "torch: per-sample kornia takes 2.5 times as long, torchvision moves all images alike"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's offset to the right and down, in standard deviations."""
        return {"offset_B2": torch.randn(shape_BCHW[0], 2, generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, moved by their offsets."""
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        offset_px_B2 = draw["offset_B2"].to(images_BCHW.dtype) * (
            variance_step(source, target) * shorter_side(images_BCHW)
        )
        # Two lines of places make the whole grid, so they are cheap to reflect.
        columns_BW = folded(centres(width, like=images_BCHW) - offset_px_B2[:, :1] * (2 / width))
        rows_BH = folded(centres(height, like=images_BCHW) - offset_px_B2[:, 1:] * (2 / height))
        places_B2HW = images_BCHW.new_empty(len(images_BCHW), 2, height, width)
        places_B2HW[:, 0] = columns_BW[:, None, :]
        places_B2HW[:, 1] = rows_BH[:, :, None]
        return read_at(images_BCHW, places_B2HW, inside=True)
