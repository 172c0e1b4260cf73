"""One scratch across each image."""

import torch
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.base import Draw, Op, register

WIDTH = 0.014
"""Of the shorter side; below 96 px the least width in pixels holds instead."""

TAPER = 0.08
"""Length over which the ends of a scratch fade out, in shorter sides."""

_MAX_BOW = 0.06
_MAX_SWAY = 0.025
# How far a scratch leaves the straight line, of its whole length: to one side, and to either side in turn.

_NUM_PRESSURES = 9
_MIN_PRESSURE = 0.15
# A scratch thins out and thickens again a few times along its course.

_MIN_CONTRAST, _MAX_CONTRAST = 1.8, 3.0
# In standard deviations of the image: beyond nearly all of its own tones.


@register
class Scratch(Op):
    """One thin, slightly curved scratch, darker or brighter than the image, thicker in some places than in others.

    Its course runs from border to border through a random point, in a random direction. With one draw the scratch
    grows both ways from an origin on its course, in proportion to the room on either side: of any length it lies inside
    the image, and it contains the shorter one.
    A step adds another scratch of length target - source: approximate.
    """

    name = "scratch"
    magnitude_name = "length"
    unit = "length of the scratch in shorter sides (at most, what its course through the image has)"
    low = 0.05
    high = 1.4
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has scratches"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's scratch as splats in the order of growth, its contrast, and what decides on dark or bright."""
        uniform_KB = torch.rand(8 + _NUM_PRESSURES, shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        origin_B = strokes.between(uniform_KB[3], (0.02, 0.98))
        start_B2, end_B2 = strokes.chords(uniform_KB[:3], shape_BCHW=shape_BCHW, origin_B=origin_B, longest=self.high)
        sigma = strokes.line_sigma(WIDTH, shorter_px=min(shape_BCHW[-2:]))
        num_points = strokes.points_along(self.high, sigma=sigma)
        along_N = torch.linspace(0, 1, num_points, device=device)
        bow_B1 = strokes.between(uniform_KB[4], (-_MAX_BOW, _MAX_BOW))[:, None]
        sway_B1 = strokes.between(uniform_KB[5], (-_MAX_SWAY, _MAX_SWAY))[:, None]
        aside_BN = bow_B1 * (4 * along_N * (1 - along_N)) + sway_B1 * (2 * torch.pi * along_N).sin()
        chord_B12 = (end_B2 - start_B2)[:, None]
        across_B12 = torch.stack((-chord_B12[..., 1], chord_B12[..., 0]), dim=-1)
        points_BN2 = start_B2[:, None] + along_N[:, None] * chord_B12 + aside_BN[..., None] * across_B12
        arc_BN, weight_BN = strokes.arc_lengths(points_BN2)
        pressure_VB = strokes.between(uniform_KB[8:], (_MIN_PRESSURE, 1.0))
        pressure_BN = (strokes.hats(num_points, _NUM_PRESSURES, device=device) @ pressure_VB).T
        return {
            **strokes.line_draw(
                points_BN2,
                weight_BN=weight_BN * pressure_BN,
                birth_BN=strokes.births(arc_BN, origin_B=origin_B),
                sigma=sigma,
                shape_BCHW=shape_BCHW,
            ),
            "sign_B": uniform_KB[6],
            "contrast_B": strokes.between(uniform_KB[7], (_MIN_CONTRAST, _MAX_CONTRAST)),
        }

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The images' means and standard deviations: the scratch has to differ from them."""
        del masks_BHW, donors_NCHW
        return strokes.image_statistics(images_BCHW)

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their scratches, another for every step."""
        if target == source:
            return images_BCHW
        coverage_B1HW = strokes.line_coverage(draw, length=target - source, taper=TAPER, dtype=images_BCHW.dtype)
        sign_B111 = strokes.dark_or_bright(draw)
        tone_BC11 = strokes.tone(draw, sign_B111=sign_B111, contrast_B=draw["contrast_B"])
        return torch.lerp(images_BCHW, tone_BC11, coverage_B1HW)
