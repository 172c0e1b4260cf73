"""What thin lines and spots share: dense points, how far they have grown, the pixels they cover, and their tone.

Places are (row, column) from the top left corner, in shorter sides; lengths are in shorter sides too.
A line is a chain of Gaussian splats, no further apart than a line looks whole; all of an image's splats are summed by
one matrix product of their row and column profiles, without a loop over images and without scattered writes.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.policy.ops.base import Draw
from autopv.policy.ops.dct import cached

MIN_WIDTH_PX = 1.35
"""Thinner lines would break up into beads between the pixels' centres."""

SATURATION = 3.0
"""Opacity (as an exponent) in the middle of a line: 1 - exp(-3) = 0.95 is covered there."""

WIDTH_IN_SIGMAS = 3.364
"""Area of a line per length and sigma, the integral of 1 - exp(-SATURATION exp(-x^2 / 2)): what counts as its width."""

_SPACING_IN_SIGMAS = 2.75
# Summed Gaussians ripple by 2 exp(-2 pi^2 / 2.75^2) = 15% at this spacing, which saturation levels to 2%.

_MAX_EXPONENT = 40.0
# exp(-40)^2 is still a normal float32 number: products of denormal ones are slow.

MIN_CONTRAST = 0.2
"""How far a defect's tone is from the image's mean at least, where the image itself has hardly any contrast."""


def line_sigma(width: float, *, shorter_px: int) -> float:
    """The standard deviation of the splats of a line of that width."""
    return max(width, MIN_WIDTH_PX / shorter_px) / WIDTH_IN_SIGMAS


def points_along(length: float, *, sigma: float) -> int:
    """How many splats make a whole line of that length."""
    return math.ceil(length / (_SPACING_IN_SIGMAS * sigma)) + 1


def sides(shape_BCHW: tuple[int, int, int, int]) -> tuple[float, float]:
    """The height and width of the images in shorter sides."""
    height, width = shape_BCHW[-2:]
    return height / min(height, width), width / min(height, width)


def chords(
    uniform_3B: Tensor, *, shape_BCHW: tuple[int, int, int, int], origin_B: Tensor, longest: float
) -> tuple[Tensor, Tensor]:
    """The two ends (B, 2) of a line through each image, in a random direction through a random point (uniform_3B).

    A line longer than `longest` is cut to that, so that the point at the share `origin_B` of it stays there.
    """
    side_2 = sides(shape_BCHW)
    angle_B = 2 * math.pi * uniform_3B[2]
    steps, ahead, behind = [], [], []
    for uniform_B, side, slope_B in zip(uniform_3B[:2], side_2, (angle_B.sin(), angle_B.cos()), strict=True):
        speed_B = slope_B.abs().clamp(min=1e-4)  # along the other axis: that side is never met
        to_far_B, to_near_B = side * (1 - uniform_B) / speed_B, side * uniform_B / speed_B
        ahead.append(torch.where(slope_B > 0, to_far_B, to_near_B))
        behind.append(torch.where(slope_B > 0, to_near_B, to_far_B))
        steps.append(slope_B)
    ahead_B, behind_B = torch.minimum(*ahead), torch.minimum(*behind)
    length_B = ahead_B + behind_B
    kept_B = length_B.clamp(max=longest)
    first_B = origin_B * (length_B - kept_B) - behind_B
    direction_B2 = torch.stack(steps, dim=1)
    point_B2 = torch.stack([uniform_B * side for uniform_B, side in zip(uniform_3B[:2], side_2, strict=True)], dim=1)
    return point_B2 + first_B[:, None] * direction_B2, point_B2 + (first_B + kept_B)[:, None] * direction_B2


@cached
def hats(num_points: int, num_vertices: int, *, device: torch.device) -> Tensor:
    """The matrix (num_points, num_vertices) that interpolates linearly between equally spaced vertices."""
    place_N = torch.linspace(0, num_vertices - 1, num_points, dtype=torch.float64)
    vertex_V = torch.arange(num_vertices, dtype=torch.float64)
    return (1 - (place_N[:, None] - vertex_V).abs()).clamp(min=0).float().to(device, non_blocking=True)


def arc_lengths(points_BN2: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's distance along the chain from its first, and the length of the chain that it stands for (B, N)."""
    gap_BN = torch.linalg.vector_norm(points_BN2[:, 1:] - points_BN2[:, :-1], dim=-1)
    before_BN, after_BN = F.pad(gap_BN, (1, 0)), F.pad(gap_BN, (0, 1))
    return before_BN.cumsum(dim=1), (before_BN + after_BN) / 2


def births(arc_BN: Tensor, *, origin_B: Tensor) -> Tensor:
    """The length at which a line that grows both ways from its origin reaches each point (B, N).

    Both ends of the chain are reached together, at its own length: of every length, the line lies within the chain.
    """
    ahead_BN = arc_BN - origin_B[:, None] * arc_BN[:, -1:]
    return torch.maximum(ahead_BN / (1 - origin_B[:, None]), -ahead_BN / origin_B[:, None])


def profiles(points_BN2: Tensor, sigma_BN: Tensor, *, shape_BCHW: tuple[int, int, int, int]) -> tuple[Tensor, Tensor]:
    """The Gaussian profile of every splat over the rows (B, H, N) and over the columns (B, N, W), 1 at its place.

    sigma_BN may be (1, 1), the same for all.
    """
    height, width = shape_BCHW[-2:]
    row_H, column_W = (
        (torch.arange(size, dtype=points_BN2.dtype, device=points_BN2.device) + 0.5) / min(height, width)
        for size in (height, width)
    )
    scale_BN = math.sqrt(0.5) / sigma_BN
    # In rows of their own: between the pairs, the large subtractions below would take ten times as long.
    point_row_BN, point_column_BN = (points_BN2[..., i].contiguous() for i in (0, 1))
    rows_BHN = (row_H[:, None] - point_row_BN[:, None, :]).mul_(scale_BN[:, None, :])
    columns_BNW = (column_W - point_column_BN[..., None]).mul_(scale_BN[..., None])
    return _bell(rows_BHN), _bell(columns_BNW)


def line_draw(
    points_BN2: Tensor, *, weight_BN: Tensor, birth_BN: Tensor, sigma: float, shape_BCHW: tuple[int, int, int, int]
) -> dict[str, Tensor]:
    """What `line_coverage` needs of lines of these points.

    weight_BN: the length that each stands for, times its opacity relative to SATURATION. birth_BN: the length at which
    it is reached.
    """
    rows_BHN, columns_BNW = profiles(points_BN2, points_BN2.new_full((1, 1), sigma), shape_BCHW=shape_BCHW)
    opacity_BN = weight_BN * (SATURATION / (sigma * math.sqrt(2 * math.pi)))
    return {"rows_BHN": rows_BHN, "columns_BNW": columns_BNW, "opacity_BN": opacity_BN, "birth_BN": birth_BN}


def line_coverage(draw: Draw, *, length: float, taper: float, dtype: torch.dtype) -> Tensor:
    """The covered share of every pixel (B, 1, H, W) when the lines have grown to `length`, fading out over `taper`."""
    grown_BN = ((length - draw["birth_BN"].to(dtype)) / taper).clamp(0, 1)
    rows_BHN = draw["rows_BHN"].to(dtype) * (draw["opacity_BN"].to(dtype) * grown_BN)[:, None, :]
    return covered(torch.bmm(rows_BHN, draw["columns_BNW"].to(dtype)))


def covered(opacity_BHW: Tensor) -> Tensor:
    """1 - exp(-opacity), (B, 1, H, W)."""
    # Not expm1: it keeps the denormal numbers far from any splat, and is ten times as slow on them.
    return 1 - torch.exp(-opacity_BHW)[:, None]


def image_statistics(images_BCHW: Tensor) -> dict[str, Tensor]:
    """Every channel's mean (B, C, 1, 1), and the standard deviation of each image about them (B, 1, 1, 1)."""
    mean_BC11 = images_BCHW.mean(dim=(-2, -1), keepdim=True)
    deviation_B111 = (images_BCHW - mean_BC11).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return {"mean_BC11": mean_BC11, "deviation_B111": deviation_B111}


def dark_or_bright(draw: Draw) -> Tensor:
    """-1 or 1 (B, 1, 1, 1): dark with a probability of the image's mean, so that there is always room for the tone."""
    mean_B111 = draw["mean_BC11"].mean(dim=1, keepdim=True)
    return 1 - 2 * (draw["sign_B"][:, None, None, None].to(mean_B111.dtype) < mean_B111).to(mean_B111.dtype)


def tone(statistics: Draw, *, sign_B111: Tensor | float, contrast_B: Tensor) -> Tensor:
    """The colour (B, C, 1, 1) that is `contrast_B` of the image's standard deviations off its mean, within [0, 1]."""
    contrast_B111 = contrast_B[:, None, None, None].to(statistics["mean_BC11"].dtype)
    away_B111 = (contrast_B111 * statistics["deviation_B111"]).clamp(min=MIN_CONTRAST)
    return (statistics["mean_BC11"] + sign_B111 * away_B111).clamp(0, 1)


def between(uniform_B: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Uniform values in [0, 1) taken to lie between the bounds."""
    low, high = bounds
    return low + (high - low) * uniform_B


def _bell(distance: Tensor) -> Tensor:
    return distance.square_().clamp_(max=_MAX_EXPONENT).neg_().exp_()
