"""A liquid's stain."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, shorter_side, survival_step
from autopv.policy.ops.levels import level_below, sorted_samples
from autopv.policy.ops.perlin import perlin_noise

EDGE = 0.03
"""Width of the soft edge, as a fraction of the shorter side; never under a pixel."""
RIM = 0.06
"""Width of the darker rim inside the edge, where a drying liquid leaves most, as a fraction of the shorter side."""
RIM_EXTRA = 0.6
"""What the rim absorbs more than the inside, as a share of it."""
OUTLINE_LENGTH, OUTLINE_OCTAVES, OUTLINE_HEIGHT = 0.35, 4, 0.3
"""Lattice, octaves and standard deviation of the noise on the logarithm of the distance from the centre."""
ABSORBED = (0.2, 0.5)
"""Shares of the light that the inside of a stain takes, from the faintest stain to the darkest."""
TINT = 0.6
"""A channel is spared at most this share of the absorption."""


@register
class Stain(Op):
    """One blob per image, irregular and soft-edged, that absorbs a share of the light, its own in every channel.

    It is where the distance from a point, perturbed by smooth noise, stays below a level; with one draw it spreads, the
    larger stain containing the smaller one. The level is each image's own quantile (autopv.policy.ops.levels), so the
    stain has the area asked for to about a percent of the image, wherever it lies.
    A step stains the share (target - source) / (1 - source) of the image: approximate.
    """

    name = "stain"
    magnitude_name = "area"
    unit = "share of the image's area"
    low = 0.005
    high = 0.8
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's perturbed distances, their sorted samples, and what each channel loses."""
        batch, channels, height, width = shape_BCHW
        uniform_BN = torch.rand(batch, 3 + channels, generator=generator).to(device, non_blocking=True)
        outline_BHW = perlin_noise(
            (batch, height, width),
            length=OUTLINE_LENGTH,
            octaves=OUTLINE_OCTAVES,
            generator=generator,
            device=device,
        )
        down_BH, right_BW = (
            (torch.arange(size, device=device) + 0.5 - uniform_BN[:, i, None] * size) / min(height, width)
            for i, size in enumerate((height, width))
        )
        distance_BHW = (down_BH.square()[:, :, None] + right_BW.square()[:, None, :]).sqrt()
        distance_BHW = distance_BHW * (OUTLINE_HEIGHT * outline_BHW).exp()
        # The channel that absorbs most absorbs all of it: on grey images a stain has no tint.
        spared_BC = TINT * (uniform_BN[:, 3:] - uniform_BN[:, 3:].amin(dim=1, keepdim=True))
        absorbed_B1 = ABSORBED[0] + (ABSORBED[1] - ABSORBED[0]) * uniform_BN[:, 2:3]
        return {
            "distance_BHW": distance_BHW,
            "samples_BN": sorted_samples(distance_BHW),
            "absorbed_BC": absorbed_B1 * (1 - spared_BC),
        }

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their stains."""
        if target == source:
            return images_BCHW
        level_B = level_below(draw["samples_BN"], share=survival_step(source, target))
        depth_BHW = (level_B[:, None, None] - draw["distance_BHW"]).to(images_BCHW.dtype)
        covered_BHW = (depth_BHW / max(EDGE, 1 / shorter_side(images_BCHW)) + 0.5).clamp(0, 1)
        rim_BHW = (1 - depth_BHW / RIM).clamp(0, 1)
        density_BHW = covered_BHW * (1 + RIM_EXTRA * rim_BHW)
        absorbed_BC11 = draw["absorbed_BC"].to(images_BCHW.dtype)[:, :, None, None]
        return images_BCHW * (1 - density_BHW[:, None] * absorbed_BC11)
