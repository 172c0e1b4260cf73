"""A patch of the image, pasted at another place in it."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, survival_step
from autopv.policy.ops.boxes import box_masks, draw_boxes


@register
class CutPaste(Op):
    """A box of the image replaced by what lies elsewhere in it: every detail is genuine, only its place is wrong.

    The box has exactly the area asked for. With one draw, a larger box contains the smaller one with its content: the
    displacement is fixed, in whole pixels, so that nothing is resampled. What a large box would take from beyond the
    border is reflected.
    A step pastes over the share (target - source) / (1 - source) of the image, from the frame as it is: approximate.
    Source: Li et al. 2021, "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", without its
    colour jitter, rotation and scars: those are ops of their own.
    """

    name = "cut_paste"
    magnitude_name = "area"
    unit = "share of the image's area that is pasted over"
    low = 0.005
    high = 0.5
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: kornia and torchvision have CutMix and Mosaic between images, nothing within one"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's box, and the place between the borders in [0, 1] that a small one takes its content from."""
        boxes = draw_boxes(shape_BCHW[0], generator=generator, device=device)
        uniform_2B = torch.rand(2, shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        return {**boxes, "from_row_B": uniform_2B[0], "from_column_B": uniform_2B[1]}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their patches pasted."""
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        rows_BH = _displaced(draw["from_row_B"] - draw["row_B"], size_px=height)
        columns_BW = _displaced(draw["from_column_B"] - draw["column_B"], size_px=width)
        # One flat gather is a quarter of two separable ones, and faster than matrix products or grid_sample.
        pixels_B1N = (rows_BH[:, :, None] * width + columns_BW[:, None, :]).flatten(start_dim=1)[:, None]
        values_BCN = images_BCHW.flatten(start_dim=2)
        pasted_BCHW = values_BCN.gather(2, pixels_B1N.expand_as(values_BCN)).view_as(images_BCHW)
        return torch.lerp(images_BCHW, pasted_BCHW, box_masks(images_BCHW, draw, area=survival_step(source, target)))


def _displaced(displacement_B: Tensor, *, size_px: int) -> Tensor:
    """The pixel of a line from which every pixel is taken, reflected at the line's ends."""
    shift_B1 = (displacement_B * size_px).round().long()[:, None]
    place_BN = (torch.arange(size_px, device=displacement_B.device) + shift_B1).remainder(2 * size_px)
    return torch.minimum(place_BN, 2 * size_px - 1 - place_BN)
