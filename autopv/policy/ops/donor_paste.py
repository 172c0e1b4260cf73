"""A patch of another image, pasted at its own place."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, survival_step
from autopv.policy.ops.boxes import box_masks, draw_boxes


@register
class DonorPaste(Op):
    """A box of the image replaced by the same box of an image of the donor bank.

    Taken from the same place, a patch keeps what images of the domain share (a face's layout, a product's position) and
    mixes what differs; content from the wrong place is cut_paste's. The box has exactly the area asked for; with one
    draw a larger box contains the smaller one, of the same donor. A bank that holds the image itself may give it back.
    A step pastes over the share (target - source) / (1 - source) of the image; boxes are not independent pixels, and
    each fresh step has its own donor: approximate.
    Source: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features".
    """

    name = "donor_paste"
    magnitude_name = "area"
    unit = "share of the image's area that is pasted over"
    low = 0.005
    high = 0.9
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: kornia and torchvision mix neighbours of one batch; neither takes a donor bank nor grows a box"
    needs = frozenset({"donors"})

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's box, and its donor's place in the bank in [0, 1), whatever the bank's size."""
        boxes = draw_boxes(shape_BCHW[0], generator=generator, device=device)
        donor_B = torch.rand(shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        return {**boxes, "donor_B": donor_B}

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The bank."""
        del images_BCHW, masks_BHW
        assert donors_NCHW is not None  # what it needs, it gets
        return {"donors_NCHW": donors_NCHW}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their donors' patches pasted."""
        if target == source:
            return images_BCHW
        num_donors = len(draw["donors_NCHW"])
        index_B = (draw["donor_B"] * num_donors).long().clamp(max=num_donors - 1)  # float32 may round up to the size
        pasted_BCHW = draw["donors_NCHW"].index_select(0, index_B)
        return torch.lerp(images_BCHW, pasted_BCHW, box_masks(images_BCHW, draw, area=survival_step(source, target)))
