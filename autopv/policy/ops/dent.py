"""A shallow dent, seen by its shading."""

import math

import torch
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.base import Draw, Op, register, variance_step

MIN_RADIUS, MAX_RADIUS = 0.12, 0.4
"""Of the ellipse's longer half-axis, in shorter sides of the image."""

MAX_ASPECT = 1.8

_STEEPEST = 1.5 * math.sqrt(3)
# 1 / max of (1 - x^2) x, at x = sqrt(1/3): the slope of (1 - x^2)^2 is stated at its steepest.


@register
class Dent(Op):
    """The shading of an elliptical dent or bump (1 - rho^2)^2: one side darker, the other brighter, nothing outside.

    Under light at 45 degrees a gentle slope s against the light changes a matt surface's brightness by the factor
    1 - s, so the image is multiplied by 1 plus the slope along a random direction, which is zero on average. With one
    draw the dent deepens. A step adds another dent, of the missing variance: approximate.
    """

    name = "dent"
    magnitude_name = "slope"
    unit = "steepest slope of the dent's side, as a share of its brightness under light at 45 degrees"
    low = 0.02
    high = 0.6
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has dents"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's dent: centre, half-axes in shorter sides, the angle of the longer one, and that of the light.

        The light's angle counts in the ellipse's own axes and units, where it is a circle.
        """
        uniform_6B = torch.rand(6, shape_BCHW[0], generator=generator).to(device, non_blocking=True)
        radius_B = strokes.between(uniform_6B[2], (MIN_RADIUS, MAX_RADIUS))
        return {
            "row_B": uniform_6B[0],
            "column_B": uniform_6B[1],
            "longer_B": radius_B,
            "shorter_B": radius_B / strokes.between(uniform_6B[3], (1.0, MAX_ASPECT)),
            "axis_B": math.pi * uniform_6B[4],
            "light_B": 2 * math.pi * uniform_6B[5],
        }

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their dents, another for every step."""
        if target == source:
            return images_BCHW
        slope_B1HW = variance_step(source, target) * _slope(draw, images_BCHW)
        return torch.addcmul(images_BCHW, images_BCHW, slope_B1HW)


def _slope(draw: Draw, images_BCHW: Tensor) -> Tensor:
    """The slope against the light (B, 1, H, W), -1 and 1 at the steepest places of a dent lit along an axis."""
    batch, channels, height, width = images_BCHW.shape
    side_2 = strokes.sides((batch, channels, height, width))
    values = {name: value[:, None, None].to(images_BCHW.dtype) for name, value in draw.items()}
    row_BH1, column_B1W = (
        (torch.arange(size, dtype=images_BCHW.dtype, device=images_BCHW.device) + 0.5) / min(height, width)
        for size in (height, width)
    )
    row_BH1 = row_BH1[:, None] - values["row_B"] * side_2[0]
    column_B1W = column_B1W - values["column_B"] * side_2[1]
    cos_B11, sin_B11 = values["axis_B"].cos(), values["axis_B"].sin()
    # In the ellipse's own axes, each in its own half-axis: rho^2 is the sum of both squares.
    longer_BHW = row_BH1 * (sin_B11 / values["longer_B"]) + column_B1W * (cos_B11 / values["longer_B"])
    shorter_BHW = row_BH1 * (cos_B11 / values["shorter_B"]) - column_B1W * (sin_B11 / values["shorter_B"])
    inside_BHW = (1 - longer_BHW.square() - shorter_BHW.square()).clamp(min=0)
    light_B11 = values["light_B"]
    # The gradient of (1 - rho^2)^2 along the light; all dents are as steep, whatever their size.
    uphill_BHW = longer_BHW * light_B11.cos() + shorter_BHW * light_B11.sin()
    return (_STEEPEST * inside_BHW * uphill_BHW)[:, None]
