"""A policy's pseudo videos as a picture, frames left to right, or as an animation."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autopv.data.images import ImageSet
from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.errors import InputError
from autopv.policy import Policy

NUM_IMAGES = 6
ANIMATIONS = (".gif", ".webp")
SUFFIXES = (".png", *ANIMATIONS)
# Small images are enlarged (each pixel becomes a square) to about this height.
_SHOWN_PX = 128
_FRAME_MS, _LAST_FRAME_MS = 250, 1500
_MAX_DONORS = 64


def check_preview_path(path: Path) -> None:
    """Nothing, if a preview can be written under that name. Raises: InputError."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"--out {path}: a preview must end in {', '.join(SUFFIXES)} (the last two are animated)")


def preview_frames(policy: Policy, image_set: ImageSet, *, num_images: int = NUM_IMAGES, seed: int = 0) -> Tensor:
    """Videos frames_BTCHW of at most num_images images spread over the set; where there are masks, of defects first."""
    images_NCHW, masks_NHW = image_set.images_NCHW, image_set.masks_NHW
    candidates = torch.arange(len(image_set))
    if masks_NHW is not None and "masks" in policy.needs and bool(masks_NHW.any()):
        candidates = masks_NHW.flatten(1).any(dim=1).nonzero()[:, 0]
    chosen = _spread(candidates, count=num_images)
    donors = _spread(torch.arange(len(image_set)), count=_MAX_DONORS)
    return policy.render(
        to_float(images_NCHW[chosen]),
        generator=torch.Generator().manual_seed(seed),
        masks_BHW=None if masks_NHW is None else masks_NHW[chosen],
        donors=to_float(images_NCHW[donors]),
    )


def write_preview(
    policy: Policy, image_set: ImageSet, path: Path, *, num_images: int = NUM_IMAGES, seed: int = 0
) -> None:
    """Draws one row per image, most corrupted frame left, the image itself right; or all images in motion.

    Raises: InputError for a suffix that is none of SUFFIXES; PolicyError where the policy needs masks there are not.
    """
    check_preview_path(path)
    frames_BTCHW = preview_frames(policy, image_set, num_images=num_images, seed=seed)
    scale = max(1, _SHOWN_PX // frames_BTCHW.shape[-1])
    if path.suffix.lower() == ".png":
        save_png(path, image_grid(frames_BTCHW.flatten(0, 1), columns=policy.num_frames, scale=scale))
    else:
        save_animation(frames_BTCHW, path, scale=scale)


def save_animation(frames_BTCHW: Tensor, path: Path, *, scale: int) -> None:
    """Writes an endless GIF or (lossless) WebP, by the suffix: the videos side by side, resting on the last frame."""
    from PIL import Image

    columns = int(np.ceil(np.sqrt(len(frames_BTCHW))))
    pictures = [
        Image.fromarray(image_grid(images_BCHW, columns=columns, scale=scale))
        for images_BCHW in frames_BTCHW.unbind(dim=1)
    ]
    durations_ms = [_FRAME_MS] * (len(pictures) - 1) + [_LAST_FRAME_MS]
    lossless = path.suffix.lower() == ".webp"  # GIF knows no such option and ignores it
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations_ms, loop=0, lossless=lossless)


def _spread(indices: Tensor, *, count: int) -> Tensor:
    """At most `count` of the indices, evenly spread over them."""
    count = min(count, len(indices))
    return indices[torch.arange(count) * len(indices) // count]
