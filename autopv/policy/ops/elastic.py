"""An elastic deformation."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, variance_step
from autopv.policy.ops.fields import smooth_field
from autopv.policy.ops.warp import pixel_places, read_at

CORRELATION_LENGTH = 4 / 29
"""Of the displacements, as a fraction of the shorter side: the source's best, 4 pixels of 29."""


@register
class Elastic(Op):
    """Each pixel read from a place nearby; displacements are smooth normal fields, beyond the border is a reflection.

    Variances of displacements add, but a step moves what earlier steps have displaced, resamples it (bilinearly) and
    reflects it anew: approximate.

    Source: Simard et al., "Best practices for convolutional neural networks applied to visual document analysis",
    ICDAR 2003, section 2; normal instead of uniform noise is smoothed, and by a blur that reflects at the borders.
    """

    name = "elastic"
    magnitude_name = "displacement"
    unit = "standard deviation of the displacement down and of that across, as a fraction of the shorter side"
    low = 0.0005
    high = 0.1
    deterministic = False
    exact = False
    monotone = True
    group = "geometry"
    built_on = "torch: kornia blurs by kernels and takes eight times as long, torchvision has one field for all"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Every pixel's displacement across and down, in standard deviations as shares of width and height."""
        batch, _, height, width = shape_BCHW
        displacement_B2HW = smooth_field(
            (batch, 2, height, width), length=CORRELATION_LENGTH, generator=generator, device=device
        )
        # Equally long in pixels both ways, while places are counted in parts of each side.
        displacement_B2HW[:, 0] *= min(height, width) / width
        displacement_B2HW[:, 1] *= min(height, width) / height
        return {"displacement_B2HW": displacement_B2HW}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, deformed."""
        if target == source:
            return images_BCHW
        displacement_B2HW = draw["displacement_B2HW"].to(images_BCHW.dtype)
        deviation = 2 * variance_step(source, target)  # in halves of a side
        return read_at(images_BCHW, pixel_places(images_BCHW).add(displacement_B2HW, alpha=deviation))
