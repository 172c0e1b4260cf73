"""Gradient noise: smooth random fields with features of one size, and octaves of them.

Source: Perlin 2002, "Improving Noise" (the fade 6 t^5 - 15 t^4 + 10 t^3). Differences: gradients are unit vectors of
any direction, drawn per image instead of hashed, and each image's lattice is shifted at random, so that its nodes,
where this noise is always 0, fall everywhere.
"""

import math

import torch
from torch import Tensor

from autopv.policy.ops.fields import uniform_field

_SMALLEST_CELL_PX = 2.0
"""Octaves with smaller cells are left out: pixels do not resolve them."""
# Of a cell's two nodes along one axis, at distances t and 1 - t: the mean over t of the sum of their squared weights,
# and of the squared weights times squared distances. Their product is the noise's variance.
_WEIGHTS, _MOMENTS = 181 / 231, 535 / 9009


def perlin_noise(
    shape_BHW: tuple[int, int, int],
    *,
    length: float,
    octaves: int = 1,
    persistence: float = 0.5,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Noise of mean 0 and variance 1 (over draws), (B, H, W), whose lattice's cells are `length` of the shorter side.

    octaves: each has half the cell and `persistence` times the height of the one before.
    """
    total_BHW = torch.zeros(shape_BHW, device=device)
    variance = 0.0
    for octave in range(octaves):
        cell_px = length * min(shape_BHW[1:]) / 2**octave
        if octave > 0 and cell_px < _SMALLEST_CELL_PX:
            break
        height = persistence**octave
        _add_octave(total_BHW, height=height, cell_px=cell_px, generator=generator)
        variance += height**2
    return total_BHW.mul_(1 / math.sqrt(variance * _WEIGHTS * _MOMENTS))


def _add_octave(total_BHW: Tensor, *, height: float, cell_px: float, generator: torch.Generator) -> None:
    """Adds, in place, `height` times the noise of one lattice per image."""
    batch, device = total_BHW.shape[0], total_BHW.device
    # A line and its shift by up to a cell end in the last cell but one at most.
    nodes_y, nodes_x = (math.ceil(size / cell_px) + 2 for size in total_BHW.shape[1:])
    angle_BYX = uniform_field((batch, nodes_y, nodes_x), generator=generator, device=device) * (2 * math.pi)
    shift_2B = torch.rand(2, batch, generator=generator).to(device, non_blocking=True)
    rows_BHY, away_BHY = _influence(shift_2B[0], size_px=total_BHW.shape[1], num_nodes=nodes_y, cell_px=cell_px)
    columns_BWX, away_BWX = _influence(shift_2B[1], size_px=total_BHW.shape[2], num_nodes=nodes_x, cell_px=cell_px)
    # A node adds w_y w_x (g_y (y - y_node) + g_x (x - x_node)): two products of matrices instead of gathers.
    total_BHW.baddbmm_(away_BHY @ angle_BYX.sin(), columns_BWX.mT, alpha=height)
    total_BHW.baddbmm_(rows_BHY @ angle_BYX.cos(), away_BWX.mT, alpha=height)


def _influence(shift_B: Tensor, *, size_px: int, num_nodes: int, cell_px: float) -> tuple[Tensor, Tensor]:
    """Along one axis: every node's weight at every pixel, (B, size_px, num_nodes), and that times its distance."""
    place_N = (torch.arange(size_px, device=shift_B.device) + 0.5) / cell_px
    node_M = torch.arange(num_nodes, device=shift_B.device)
    distance_BNM = (place_N + shift_B[:, None])[:, :, None] - node_M
    near_BNM = (1 - distance_BNM.abs()).clamp(min=0)
    weight_BNM = near_BNM**3 * (near_BNM * (6 * near_BNM - 15) + 10)
    return weight_BNM, weight_BNM * distance_BNM
