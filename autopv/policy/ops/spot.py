"""A few pits or particles."""

import math

import torch
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.base import Draw, Op, register, survival_step

NUM_SPOTS = 5
_SIZE_SPREAD = 1.2
# Standard deviation of the logarithm of a spot's area: one or two spots take most of the area.

NUM_LOBES = 3
_MAX_OFFSET = 1.2
# A spot is not round: its lobes lie about its centre, at most so many sigmas away, too near to fall apart.

_EDGE = 4  # as two squares
_RIM = 0.25
# Coverage is 1 - 2^-(field / _RIM)^_EDGE, which is a half where the summed Gaussians fall to _RIM.

_NOTHING = 1e-8
# Smaller values of the field cover nothing, and their powers would be denormal numbers, which are slow.

_SIGMAS_PER_RADIUS = 0.572
# Sigma of the lobes that gives a spot, on average over its offsets, the area of a disc (the tests measure it).

_MIN_SIGMA_PX = 0.5
_FAINT = 8.3
# A smaller spot would fall between the pixels: it keeps this size and fades. With h its height over the rim, its
# coverage over a whole spot's is about log(h) / log(1 / _RIM), or h^_EDGE / _FAINT where h < 1 (integrals of
# 1 - 2^-(h exp(-r^2 / 2))^4), and h is chosen so that this is about the share that its area is.

_MIN_CONTRAST, _MAX_CONTRAST = 1.8, 3.0
# In standard deviations of the image: beyond nearly all of its own tones.


@register
class Spot(Op):
    """A few small spots of unequal sizes with soft edges, all darker than the image (pits) or brighter (particles).

    Each is a few Gaussians close together, their sum cut off softly: roundish, and near spots run into one. With one
    draw every spot grows about its centre.
    A step adds other spots, on the share (target - source) / (1 - source) of the image: approximate.
    """

    name = "spot"
    magnitude_name = "area"
    unit = "share of the image's area under all its spots together, were they whole and apart"
    low = 0.0005
    high = 0.1
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has pits or particles"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Every lobe's place (row, column), every spot's share of the area, contrast, and what decides on the sign."""
        batch = shape_BCHW[0]
        uniform_2B = torch.rand(2, batch, generator=generator).to(device, non_blocking=True)
        centre_BK2 = torch.rand(batch, NUM_SPOTS, 2, generator=generator).to(device, non_blocking=True)
        size_BK = torch.randn(batch, NUM_SPOTS, generator=generator).to(device, non_blocking=True)
        polar_2BKL = torch.rand(2, batch, NUM_SPOTS, NUM_LOBES, generator=generator).to(device, non_blocking=True)
        radius_BKL, angle_BKL = _MAX_OFFSET * polar_2BKL[0].sqrt(), 2 * math.pi * polar_2BKL[1]
        return {
            "centre_BK2": centre_BK2,
            "share_BK": (_SIZE_SPREAD * size_BK).softmax(dim=1),
            "offset_BKL2": radius_BKL[..., None] * torch.stack((angle_BKL.sin(), angle_BKL.cos()), dim=-1),
            "sign_B": uniform_2B[0],
            "contrast_B": strokes.between(uniform_2B[1], (_MIN_CONTRAST, _MAX_CONTRAST)),
        }

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The images' means and standard deviations: spots have to differ from them."""
        del masks_BHW, donors_NCHW
        return strokes.image_statistics(images_BCHW)

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their spots, others for every step."""
        if target == source:
            return images_BCHW
        coverage_B1HW = _coverage(draw, images_BCHW, area=survival_step(source, target))
        tone_BC11 = strokes.tone(draw, sign_B111=strokes.dark_or_bright(draw), contrast_B=draw["contrast_B"])
        return torch.lerp(images_BCHW, tone_BC11, coverage_B1HW)


def _coverage(draw: Draw, images_BCHW: Tensor, *, area: float) -> Tensor:
    """The covered share of every pixel (B, 1, H, W)."""
    batch, channels, height, width = images_BCHW.shape
    shape_BCHW, dtype = (batch, channels, height, width), images_BCHW.dtype
    side_2 = strokes.sides(shape_BCHW)
    radius_BK = (draw["share_BK"].to(dtype) * (area * side_2[0] * side_2[1] / math.pi)).sqrt()
    sigma_BK = _SIGMAS_PER_RADIUS * radius_BK
    splat_BK = sigma_BK.clamp(min=_MIN_SIGMA_PX / min(height, width))
    centre_BK2 = torch.stack([draw["centre_BK2"][..., i].to(dtype) * side_2[i] for i in (0, 1)], dim=-1)
    points_BKL2 = centre_BK2[:, :, None] + draw["offset_BKL2"].to(dtype) * sigma_BK[..., None, None]
    sigma_BN = splat_BK[..., None].expand(-1, -1, NUM_LOBES).flatten(1)
    rows_BHN, columns_BNW = strokes.profiles(points_BKL2.flatten(1, 2), sigma_BN, shape_BCHW=shape_BCHW)
    shown_BK = (sigma_BK / splat_BK).square()
    above_rim_BK = _RIM**-shown_BK * (_FAINT * shown_BK).clamp(max=1) ** (1 / _EDGE)
    height_BK = above_rim_BK * (math.log(2) ** (1 / _EDGE) / NUM_LOBES)
    height_BN = height_BK[..., None].expand(-1, -1, NUM_LOBES).flatten(1)
    field_BHW = torch.bmm(rows_BHN * height_BN[:, None, :], columns_BNW)
    return strokes.covered(field_BHW.clamp(min=_NOTHING).square().square())
