"""A branching crack in each image."""

import math

import torch
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.base import Draw, Op, register

WIDTH = 0.016
"""Of the shorter side, where the crack has opened fully."""

TAPER = 0.25
"""A crack is a wedge: it opens to its full width over this length behind its tip, in shorter sides."""

NUM_BRANCHES = 4
_MIN_BRANCH, _MAX_BRANCH = 0.08, 0.36
_BRANCH_OPACITY = 0.55
# Side branches are shorter and thinner.

_MIN_FORK, _MAX_FORK = math.radians(25), math.radians(70)
# Between a branch and the direction in which the crack runs.

_NUM_KINKS = 26
_NUM_BRANCH_KINKS = 7
_KINK = 0.55
_JITTER = 0.4
# How far a crack strays from its course between two kinks: as a walk, and about it; of the distance between kinks.

_STRAY, _BRANCH_STRAY = 1.25, 1.15
# Kinks make a crack longer than its course by about these factors.

_MIN_CONTRAST, _MAX_CONTRAST = 2.5, 3.5
# In standard deviations of the image: darker than nearly all of it.


@register
class Crack(Op):
    """A dark crack with kinks, and thinner branches that leave it at sharp angles to either side.

    The main crack wanders about a course through the image. With one draw it grows both ways from an origin on its
    course, opening behind its tips, and a branch starts to grow when a tip passes its foot.
    A step adds another crack of length target - source: approximate.
    """

    name = "crack"
    magnitude_name = "length"
    unit = "length of the main crack in shorter sides (at most, what its course through the image has)"
    low = 0.05
    high = 1.4
    deterministic = False
    exact = False
    monotone = True
    group = "defect"
    built_on = "torch: neither kornia nor torchvision has cracks"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """Each image's crack and its branches as splats in the order of growth, and its contrast."""
        batch = shape_BCHW[0]
        uniform_5B = torch.rand(5, batch, generator=generator).to(device, non_blocking=True)
        main_2BV = torch.randn(2, batch, _NUM_KINKS, generator=generator).to(device, non_blocking=True)
        branch_4BK = torch.rand(4, batch, NUM_BRANCHES, generator=generator).to(device, non_blocking=True)
        branch_BKV = torch.randn(batch, NUM_BRANCHES, _NUM_BRANCH_KINKS, generator=generator)
        branch_BKV = branch_BKV.to(device, non_blocking=True)

        sigma = strokes.line_sigma(WIDTH, shorter_px=min(shape_BCHW[-2:]))
        origin_B = strokes.between(uniform_5B[3], (0.1, 0.9))
        start_B2, end_B2 = strokes.chords(uniform_5B[:3], shape_BCHW=shape_BCHW, origin_B=origin_B, longest=self.high)
        main_BN2 = _main_crack(
            start_B2, end_B2, normal_2BV=main_2BV, num_points=strokes.points_along(self.high * _STRAY, sigma=sigma)
        )
        main_arc_BN, main_weight_BN = strokes.arc_lengths(main_BN2)
        main_birth_BN = strokes.births(main_arc_BN, origin_B=origin_B)

        place_BK, side_BK, fork_BK, length_BK = branch_4BK
        place_BK = (place_BK + torch.arange(NUM_BRANCHES, device=device)) / NUM_BRANCHES
        foot_BK = (place_BK * (main_BN2.shape[1] - 1)).long()  # a place may round up to 1
        foot_BK2 = main_BN2.gather(1, foot_BK[..., None].expand(-1, -1, 2))
        onward_BK = 1 - 2 * (place_BK < origin_B[:, None]).float()
        turn_BK = strokes.between(fork_BK, (_MIN_FORK, _MAX_FORK)) * (1 - 2 * (side_BK < 0.5).float())
        heading_B2 = torch.nn.functional.normalize(end_B2 - start_B2, dim=-1)
        steps_BK2 = _turned(heading_B2[:, None] * onward_BK[..., None], turn_BK)
        steps_BK2 = steps_BK2 * strokes.between(length_BK, (_MIN_BRANCH, _MAX_BRANCH))[..., None]
        branch_BKN2 = _branches(
            foot_BK2,
            steps_BK2,
            normal_BKV=branch_BKV,
            num_points=strokes.points_along(_MAX_BRANCH * _BRANCH_STRAY, sigma=sigma),
        )
        branch_arc_BN, branch_weight_BN = strokes.arc_lengths(branch_BKN2.flatten(0, 1))
        # Of a crack that grows at two tips, each takes half of the length.
        branch_birth_BKN = main_birth_BN.gather(1, foot_BK)[..., None] + 2 * branch_arc_BN.view(batch, NUM_BRANCHES, -1)
        return {
            **strokes.line_draw(
                torch.cat((main_BN2, branch_BKN2.flatten(1, 2)), dim=1),
                weight_BN=torch.cat((main_weight_BN, _BRANCH_OPACITY * branch_weight_BN.reshape(batch, -1)), dim=1),
                birth_BN=torch.cat((main_birth_BN, branch_birth_BKN.flatten(1)), dim=1),
                sigma=sigma,
                shape_BCHW=shape_BCHW,
            ),
            "contrast_B": strokes.between(uniform_5B[4], (_MIN_CONTRAST, _MAX_CONTRAST)),
        }

    def prepare(self, images_BCHW: Tensor, *, masks_BHW: Tensor | None, donors_NCHW: Tensor | None) -> Draw:
        """The images' means and standard deviations: a crack has to be darker."""
        del masks_BHW, donors_NCHW
        return strokes.image_statistics(images_BCHW)

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images with their cracks, another for every step; what is darker than its crack stays as it is."""
        if target == source:
            return images_BCHW
        coverage_B1HW = strokes.line_coverage(draw, length=target - source, taper=TAPER, dtype=images_BCHW.dtype)
        tone_BC11 = strokes.tone(draw, sign_B111=-1.0, contrast_B=draw["contrast_B"])
        return torch.lerp(images_BCHW, torch.minimum(images_BCHW, tone_BC11), coverage_B1HW)


def _main_crack(start_B2: Tensor, end_B2: Tensor, *, normal_2BV: Tensor, num_points: int) -> Tensor:
    """The points (B, N, 2) of a walk that wanders about the chord and ends where it ends."""
    walk_BV = normal_2BV[0].cumsum(dim=1)
    along_V = torch.linspace(0, 1, _NUM_KINKS, device=walk_BV.device)
    bridge_BV = walk_BV - walk_BV[:, :1] - along_V * (walk_BV[:, -1:] - walk_BV[:, :1])
    return _kinked(
        start_B2, end_B2 - start_B2, aside_V=_KINK * bridge_BV + _JITTER * normal_2BV[1], num_points=num_points
    )


def _branches(foot_BK2: Tensor, steps_BK2: Tensor, *, normal_BKV: Tensor, num_points: int) -> Tensor:
    """The points (B, K, N, 2) of walks that begin at their feet and wander about their steps."""
    walk_BKV = normal_BKV.cumsum(dim=-1)
    return _kinked(foot_BK2, steps_BK2, aside_V=_KINK * (walk_BKV - walk_BKV[..., :1]), num_points=num_points)


def _kinked(start_2: Tensor, step_2: Tensor, *, aside_V: Tensor, num_points: int) -> Tensor:
    """Points (..., N, 2) from the start along the step, led aside at kinks (in units of their equal distances)."""
    num_kinks = aside_V.shape[-1]
    along_V1 = torch.linspace(0, 1, num_kinks, device=aside_V.device)[:, None]
    across_2 = torch.stack((-step_2[..., 1], step_2[..., 0]), dim=-1)
    aside_V1 = aside_V[..., None] / (num_kinks - 1)
    vertices_V2 = start_2[..., None, :] + along_V1 * step_2[..., None, :] + aside_V1 * across_2[..., None, :]
    return strokes.hats(num_points, num_kinks, device=aside_V.device) @ vertices_V2


def _turned(steps_BK2: Tensor, angle_BK: Tensor) -> Tensor:
    cos_BK, sin_BK = angle_BK.cos(), angle_BK.sin()
    row_BK, column_BK = steps_BK2.unbind(dim=-1)
    return torch.stack((cos_BK * row_BK - sin_BK * column_BK, sin_BK * row_BK + cos_BK * column_BK), dim=-1)
