from itertools import pairwise

import numpy as np
import pytest
import scipy.fft
import torch
from op_cases import step
from torch import Tensor

from autopv.policy import Policy
from autopv.testing.op_suite import OpSuite, structured_images


class TestSpectralMask(OpSuite):
    op = "spectral_mask"

    def policy(
        self,
        *,
        magnitude: float | None = None,
        num_frames: int = 4,
        markov_order: int = 1,
        randomness: str = "fresh",
        probability: float = 1.0,
    ) -> Policy:
        """Half of the coefficients where no magnitude is given.

        A few low frequencies hold most of an image: whether distances grow with a small share, 64 images cannot tell.
        """
        return super().policy(
            magnitude=0.5 if magnitude is None else magnitude,
            num_frames=num_frames,
            markov_order=markov_order,
            randomness=randomness,
            probability=probability,
        )


def kept(images_BCHW: Tensor, *, share: float) -> np.ndarray:
    """Which coefficients are still there, by scipy's transform; all others are 0."""
    before, after = (
        scipy.fft.dctn(images.numpy(), axes=(-2, -1), norm="ortho")
        for images in (images_BCHW, step("spectral_mask", images_BCHW, target=share))
    )
    is_kept = np.abs(after - before) < 1e-9
    np.testing.assert_allclose(after[~is_kept], 0, atol=1e-9)
    return is_kept


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_the_stated_share_of_coefficients_is_dropped_from_all_channels_at_once(share: float) -> None:
    kept_BCHW = kept(structured_images((16, 3, 24, 40), seed=0).double(), share=share)
    assert 1 - kept_BCHW.mean() == pytest.approx(share, abs=0.02)
    assert bool((kept_BCHW == kept_BCHW[:, :1]).all())


def test_the_mean_is_always_kept() -> None:
    images_BCHW = structured_images((256, 1, 8, 8), seed=0).double()
    masked_BCHW = step("spectral_mask", images_BCHW, target=0.95)
    torch.testing.assert_close(masked_BCHW.mean(dim=(-2, -1)), images_BCHW.mean(dim=(-2, -1)))


def test_the_expected_distance_is_the_share_of_the_variance() -> None:
    """Parseval: what a dropped coefficient takes away is its square."""
    images_BCHW = structured_images((1, 1, 16, 16), seed=0).double().expand(4096, -1, -1, -1)
    distance = (step("spectral_mask", images_BCHW, target=0.3) - images_BCHW).square().mean()
    assert float(distance) == pytest.approx(0.3 * float(images_BCHW[0].var(correction=0)), rel=0.05)


def test_with_one_draw_dropped_coefficients_stay_dropped() -> None:
    images_BCHW = structured_images((4, 1, 16, 24), seed=0).double()
    masks = [kept(images_BCHW, share=share) for share in (0.05, 0.2, 0.6, 0.95)]
    for more, fewer in pairwise(masks):
        assert not (fewer & ~more).any()
        assert fewer.sum() < more.sum()
