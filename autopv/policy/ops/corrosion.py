"""Corrosion eating into a surface."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, survival_step
from autopv.policy.ops.levels import level_below, sorted_samples
from autopv.policy.ops.perlin import perlin_noise

PATCH_LENGTH, PATCH_OCTAVES, PATCH_PERSISTENCE = 0.25, 5, 0.55
"""Noise whose highest places corrode first: cells as a fraction of the shorter side; ragged outlines."""
GRAIN_LENGTH, GRAIN_OCTAVES, GRAIN_PERSISTENCE = 0.06, 3, 0.9
"""Noise that roughens what is corroded."""
ROUGHNESS = 0.35
"""Standard deviation of the rust's brightness, relative to its mean."""
EDGE = 0.3
"""Width of the soft edge, in standard deviations of the patches' noise."""
OPACITY = 0.9
"""What the rust hides of the surface; the rest shines through."""
DEEP, DEEP_SHADE = 1.5, 0.4
"""So many standard deviations above the edge, rust has lost this share of its brightness."""
RUST_RGB = (0.45, 0.24, 0.12)
RUST_GREY = 0.25


@register
class Corrosion(Op):
    """Ragged patches of rough, dark rust: where gradient noise exceeds a level, blended over the image.

    With one draw the patches grow and new ones break out; what was corroded stays so and darkens. The level is each
    image's own quantile (autopv.policy.ops.levels), so the stated share is covered to about a percent of the image.
    Images of three channels get rust's colour, all others its grey.
    A step corrodes the share (target - source) / (1 - source) of the image: approximate.
    Source: Perlin 2002, "Improving Noise".
    """

    name = "corrosion"
    magnitude_name = "area"
    unit = "share of the image's area"
    low = 0.005
    high = 0.9
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has it"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's resistance (what is lowest corrodes first), its sorted samples, and the rust's brightness."""
        batch, _, height, width = shape_BCHW
        resistance_BHW, grain_BHW = (
            perlin_noise(
                (batch, height, width),
                length=length,
                octaves=octaves,
                persistence=persistence,
                generator=generator,
                device=device,
            )
            for length, octaves, persistence in (
                (PATCH_LENGTH, PATCH_OCTAVES, PATCH_PERSISTENCE),
                (GRAIN_LENGTH, GRAIN_OCTAVES, GRAIN_PERSISTENCE),
            )
        )
        return {
            "resistance_BHW": resistance_BHW,
            "samples_BN": sorted_samples(resistance_BHW),
            "brightness_BHW": (1 + ROUGHNESS * grain_BHW).clamp(min=0),
        }

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their rust."""
        if target == source:
            return images_BCHW
        level_B = level_below(draw["samples_BN"], share=survival_step(source, target))
        depth_BHW = (level_B[:, None, None] - draw["resistance_BHW"]).to(images_BCHW.dtype)
        covered_BHW = OPACITY * (depth_BHW / EDGE + 0.5).clamp(0, 1)
        shade_BHW = draw["brightness_BHW"].to(images_BCHW.dtype) * (1 - DEEP_SHADE * (depth_BHW / DEEP).clamp(0, 1))
        if images_BCHW.shape[1] == len(RUST_RGB):
            rust_BCHW = torch.stack([colour * shade_BHW for colour in RUST_RGB], dim=1)
        else:
            rust_BCHW = RUST_GREY * shade_BHW[:, None]
        return torch.lerp(images_BCHW, rust_BCHW, covered_BHW[:, None])
