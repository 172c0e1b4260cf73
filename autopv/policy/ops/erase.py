"""A box of the image, erased."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, survival_step
from autopv.policy.ops.boxes import box_masks, draw_boxes


@register
class Erase(Op):
    """One box, somewhere inside the image, filled with the image's mean colour.

    The box has exactly the area asked for: its edges may cut pixels, which then are filled in part. With one draw,
    a larger box contains the smaller one (its relative place between the borders is what is drawn, not its centre,
    so that it never has to be cut off).
    A step erases the share (target - source) / (1 - source) of the image, so that an average pixel survives with the
    ratio of survival probabilities; boxes are not independent pixels, so it is approximate.
    """

    name = "erase"
    magnitude_name = "area"
    unit = "share of the image's area"
    low = 0.005
    high = 0.9
    deterministic = False
    exact = False
    monotone = True
    group = "missing"
    built_on = "torch: kornia loops over the samples, torchvision erases one box for all; neither grows a box"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's box: its place between the borders in [0, 1], and the logarithm of its aspect in [-1, 1]."""
        return draw_boxes(shape_BCHW[0], generator=generator, device=device)

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their boxes filled."""
        if target == source:
            return images_BCHW
        mask_B1HW = box_masks(images_BCHW, draw, area=survival_step(source, target))
        return torch.lerp(images_BCHW, images_BCHW.mean(dim=(-2, -1), keepdim=True), mask_B1HW)
