"""How well the image can be regressed from its frames: a cheap, linear, local look at what they tell of it.

Every pixel of the image (less the image's mean) is regressed by ridge regression on the (2 r + 1)^2 pixels around it in
the frame, all channels (less the frame's mean), from one frame alone or from several together. Weights are fitted on
three quarters of the images and measured on the fourth, in turn, so that every image is held out once. R^2 is the share
of the images' variance about their own means that is explained: 1 for the image itself, 0 for pure noise.

Why the gain of further frames tells Markov orders apart. In a chain (order 1) frame t is made from frame t + 1 by
draws that have nothing to do with the image, so given frame T - 1 all earlier frames are independent of the image, and
by the data processing inequality no predictor gains from them. In a star (order T - 1) the frames are independent views
of the image: of white images of variance v with noise of variances s_t^2, frame t alone explains v / (v + s_t^2), and
frames t..T - 1 together v / (v + 1 / sum of 1 / s_u^2). That needs fresh draws, layers that are always on, ops that
see nothing of the image but their source frame, and values that the clamp to [0, 1] leaves alone: a coin tossed once
per video, or a shared draw, is seen by every frame; an op may paste from the image itself; and clamping at the output
hides of frame T - 1 what its successors in the chain were made from.

What the probe cannot see. It is linear and local: it cannot undo a rotation, find out which box was erased, or
look further than r pixels, so what it explains is a lower bound of what a network could. A deterministic chain
(blurs) may therefore show a small gain, although there is none in theory: a blurrier frame brings in pixels from
outside the window, and averages the rounding. Frames are 8-bit pictures, whose rounding decides what of a blur can
be undone; the ridge (a millionth of a predictor's variance) only keeps the equations solvable where predictors
coincide.
Brightness is left out: a frame that is the image, shifted or scaled in value, explains everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.data.tensors import to_float
from autopv.errors import DataError

FOLDS = 4
MAX_RADIUS = 2
# Bounds of cost: rows over all images, and predictors (the normal equations take rows x predictors^2).
_MAX_ROWS = 65_536
_MAX_PREDICTORS = 700
# At least this many fitted rows per predictor: a useless predictor then costs at most 2% of the unexplained share.
_ROWS_PER_PREDICTOR = 50
_RIDGE = 1e-6
_CHUNK_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class Probed:
    """R^2 of frames 1..T-1, each with its standard error over the images."""

    alone_T: Tensor
    alone_se_T: Tensor
    joint_T: Tensor
    """Frames t..T-1 together."""
    gain_T: Tensor
    """The joint R^2 less that of frame T - 1 alone."""
    gain_se_T: Tensor


def fitting_radius(shape_NTCHW: tuple[int, ...]) -> int:
    """The largest radius up to MAX_RADIUS for which the data suffice and the cost is bounded.

    >>> fitting_radius((128, 5, 3, 32, 32)), fitting_radius((128, 5, 3, 8, 8))
    (2, 0)
    """
    num_images, num_frames, channels, height, width = shape_NTCHW
    rows = num_images * _places_per_image(num_images, height * width) * (FOLDS - 1) // FOLDS
    bound = min(_MAX_PREDICTORS, rows // _ROWS_PER_PREDICTOR)
    fitting = [r for r in range(MAX_RADIUS + 1) if num_frames * channels * (2 * r + 1) ** 2 <= bound]
    return max(fitting, default=0)


def probe(images_NCHW: Tensor, frames_NTCHW: Tensor, *, radius: int, generator: torch.Generator) -> Probed:
    """What the frames (uint8, frame T - 1 last) explain of the images (uint8), at pixels chosen by the generator.

    Raises: DataError where the images are flat.
    """
    num_images, num_frames, channels, height, width = frames_NTCHW.shape
    per_image = _places_per_image(num_images, height * width)
    places_NP = torch.stack([torch.randperm(height * width, generator=generator)[:per_image] for _ in images_NCHW])
    folds = [torch.arange(fold, num_images, FOLDS) for fold in range(FOLDS)]

    def rows(members: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(images, predictors_MP, targets_MC) of a fold, a chunk at a time."""
        for chunk in torch.split(members, max(1, _CHUNK_ROWS // per_image)):
            targets = _patches(images_NCHW[chunk, None], places_NP[chunk], radius=0)
            yield chunk, _patches(frames_NTCHW[chunk], places_NP[chunk], radius=radius), targets

    block = channels * (2 * radius + 1) ** 2
    grams_KPP = torch.zeros(FOLDS, num_frames * block, num_frames * block, dtype=torch.float64)
    crosses_KPC = torch.zeros(FOLDS, num_frames * block, channels, dtype=torch.float64)
    for fold, members in enumerate(folds):
        for _, predictors_MP, targets_MC in rows(members):
            grams_KPP[fold] += predictors_MP.T @ predictors_MP
            crosses_KPC[fold] += predictors_MP.T @ targets_MC
    # The last frame's predictors come first: frames t..T-1 together are a leading block, frame t alone a block.
    starts = [block * i for i in range(num_frames)]
    models = [slice(start, start + block) for start in starts] + [slice(0, start + block) for start in starts]
    errors_NA = torch.zeros(num_images, len(models), dtype=torch.float64)
    spread_N = torch.zeros(num_images, dtype=torch.float64)
    for fold, members in enumerate(folds):
        gram_PP, cross_PC = grams_KPP.sum(0) - grams_KPP[fold], crosses_KPC.sum(0) - crosses_KPC[fold]
        weights_PAC = torch.zeros(num_frames * block, len(models), channels, dtype=torch.float64)
        for a, columns in enumerate(models):
            weights_PAC[columns, a] = _ridge(gram_PP[columns, columns], cross_PC[columns])
        for chunk, predictors_MP, targets_MC in rows(members):
            predicted_MAC = (predictors_MP @ weights_PAC.flatten(1)).view(-1, len(models), channels)
            squared_MAC = (targets_MC[:, None] - predicted_MAC).square()
            errors_NA[chunk] = squared_MAC.sum(-1).view(len(chunk), per_image, -1).sum(1)
            spread_N[chunk] = targets_MC.square().view(len(chunk), -1).sum(1)
    if spread_N.sum() <= 0:
        raise DataError("a profile needs images that are not flat, but in these every pixel has its image's mean")
    # From frame T - 1 downwards to frames 1..T - 1.
    alone_NT, joint_NT = (errors.flip(1) for errors in torch.split(errors_NA, num_frames, dim=1))
    alone_T, alone_se_T = _ratio(spread_N[:, None] - alone_NT, spread_N)
    joint_T, _ = _ratio(spread_N[:, None] - joint_NT, spread_N)
    gain_T, gain_se_T = _ratio(alone_NT[:, -1:] - joint_NT, spread_N)
    return Probed(alone_T=alone_T, alone_se_T=alone_se_T, joint_T=joint_T, gain_T=gain_T, gain_se_T=gain_se_T)


def _places_per_image(num_images: int, num_pixels: int) -> int:
    return min(num_pixels, max(1, _MAX_ROWS // num_images))


def _patches(frames_BTCHW: Tensor, places_BP: Tensor, *, radius: int) -> Tensor:
    """The windows at these pixels as rows (B P, T C (2r+1)^2) of float64, last frame first, less each frame's mean."""
    _, num_frames, channels, _, width = frames_BTCHW.shape
    frames = to_float(frames_BTCHW).double().flip(1)
    frames = (frames - frames.mean(dim=(-2, -1), keepdim=True)).flatten(1, 2)
    padded_BFL = F.pad(frames, (radius,) * 4, mode="reflect").flatten(2)
    padded_width = width + 2 * radius
    corner_BP = places_BP // width * padded_width + places_BP % width
    side = torch.arange(2 * radius + 1)
    index_BPW = corner_BP[:, :, None] + (side[:, None] * padded_width + side).flatten()
    # One gather for all frames and channels: they share the places.
    index_BFL = index_BPW.flatten(1)[:, None].expand(-1, num_frames * channels, -1)
    windows_BFPW = padded_BFL.gather(2, index_BFL).view(*padded_BFL.shape[:2], *index_BPW.shape[1:])
    return windows_BFPW.permute(0, 2, 1, 3).reshape(places_BP.numel(), -1)


def _ridge(gram_PP: Tensor, cross_PC: Tensor) -> Tensor:
    """Weights (P, C) of the ridge regression with these normal equations, predictors standardised."""
    scale_P = gram_PP.diagonal().sqrt()
    scale_P = scale_P.where(scale_P > 0, torch.ones_like(scale_P))
    standard_PP = gram_PP / scale_P[:, None] / scale_P + _RIDGE * torch.eye(len(gram_PP), dtype=gram_PP.dtype)
    factor_PP = torch.linalg.cholesky(standard_PP)
    weights_PC: Tensor = torch.cholesky_solve(cross_PC / scale_P[:, None], factor_PP) / scale_P[:, None]
    return weights_PC


def _ratio(part_NT: Tensor, whole_N: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of parts over sum of wholes, and its standard error over the images (linearised)."""
    count = len(whole_N)
    ratio_T = part_NT.sum(0) / whole_N.sum()
    off_NT = part_NT - ratio_T * whole_N[:, None]
    return ratio_T, (off_NT.square().sum(0) * count / (count - 1)).sqrt() / whole_N.sum()
