"""Policies that need no training to be known as bad: those whose frames leave too little of the image.

In experiments/elpv_table the R^2 with which the image can be regressed on all its pseudo frames goes with less excess
(rank correlation -0.45, -0.63 to -0.21). Of 63 policies 17 leave less than any of the best fifth, 0.814; read off the
first 38 alone, that bound rejects 7 of the other 25, none of their best fifth either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.errors import DataError
from autopv.policy import Policy
from autopv.profile import profile_policy

LEAST_LEFT = 0.8
# Shrunk to at most this, since policies mean the same at every size, and as many: 0.1 s a policy.
_SIDE_PX, _NUM_IMAGES = 32, 128
# Half-width of the probe's window: the same for all, or short and long videos could not be compared.
_RADIUS = 1


class Screen:
    """Looks at policies on some of the training images (uint8), and at none twice.

    masks_NHW: bool, where the defects are. least: of R^2. Where images are too few or too small to tell, no policy is
    rejected.
    """

    def __init__(
        self, images_NCHW: Tensor, *, masks_NHW: Tensor | None = None, seed: int, least: float = LEAST_LEFT
    ) -> None:
        # Twice as many, from all over: donors come from outside the sample.
        chosen = slice(None, None, max(1, len(images_NCHW) // (2 * _NUM_IMAGES)))
        self._images_NCHW = _shrunk(images_NCHW[chosen])
        self._masks_NHW = None if masks_NHW is None else _shrunk(masks_NHW[chosen][:, None])[:, 0]
        self._seed, self._least = seed, least
        self._left: dict[str, float | None] = {}

    def left(self, policy: Policy) -> float | None:
        """R^2 of the image from all pseudo frames together; None where it cannot be told, or there is none."""
        if policy.is_image_only:
            return None
        if policy.digest not in self._left:
            try:
                profile = profile_policy(
                    policy,
                    self._images_NCHW,
                    masks_NHW=self._masks_NHW,
                    seed=self._seed,
                    num_images=_NUM_IMAGES,
                    with_features=False,
                    radius=_RADIUS,
                )
                self._left[policy.digest] = profile.together
            except DataError:
                self._left[policy.digest] = None
        return self._left[policy.digest]

    def rejects(self, policy: Policy) -> bool:
        """Whether it leaves too little."""
        left = self.left(policy)
        return left is not None and left < self._least


def _shrunk(images_NCHW: Tensor) -> Tensor:
    """At most _SIDE_PX on the shorter side; a mask stays true where any of it was."""
    side_px = min(images_NCHW.shape[-2:])
    if side_px <= _SIDE_PX:
        return images_NCHW
    height, width = (round(length * _SIDE_PX / side_px) for length in images_NCHW.shape[-2:])
    small_NCHW = F.adaptive_avg_pool2d(images_NCHW.float(), (height, width))
    return small_NCHW > 0 if images_NCHW.dtype == torch.bool else small_NCHW.round().to(torch.uint8)
