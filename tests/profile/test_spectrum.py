import pytest
import torch
from torch import Tensor

from autopv.data.tensors import to_float, to_uint8
from autopv.policy.ops.dct import from_dct, to_dct
from autopv.profile.spectrum import band_edges, band_shares


def noise_images(*, num_images: int = 64, size_px: int = 32, seed: int = 0, spread: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return to_uint8(0.5 + spread * torch.randn(num_images, 1, size_px, size_px, generator=generator))


def shares(images_NCHW: Tensor, frames_NCHW: Tensor) -> list[float]:
    edges = band_edges(*images_NCHW.shape[-2:])
    values: list[float] = band_shares(images_NCHW, frames_NCHW[:, None], edges=edges)[0].tolist()
    return values


@pytest.mark.parametrize(("size_px", "num_bands"), [(8, 2), (32, 4), (48, 5), (64, 5), (128, 6)])
def test_bands_are_octaves_that_reach_into_the_corner(size_px: int, num_bands: int) -> None:
    edges = band_edges(size_px, size_px)
    assert len(edges) == num_bands + 1
    assert edges[0] == 0.5
    assert edges[-1] == pytest.approx(size_px / 2 * 2**0.5)


def test_the_image_and_its_negative_keep_everything() -> None:
    images = noise_images()
    assert shares(images, images) == pytest.approx([1] * 4, abs=1e-9)
    assert shares(images, 255 - images) == pytest.approx([1] * 4, abs=1e-9)


def test_other_images_and_a_constant_keep_nothing() -> None:
    images = noise_images()
    assert shares(images, noise_images(seed=1)) == pytest.approx([0] * 4, abs=0.05)
    assert shares(images, torch.full_like(images, 128)) == [0] * 4


def test_added_white_noise_leaves_the_share_of_the_variance_in_every_band() -> None:
    images = noise_images(num_images=256)
    noisy = to_uint8(to_float(images) + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2)))
    assert shares(images, noisy) == pytest.approx([0.1**2 / (0.1**2 + 0.05**2)] * 4, abs=0.03)


def test_a_removed_band_is_lost_and_the_others_are_kept() -> None:
    images = noise_images()
    coefficients = to_dct(to_float(images))
    index = torch.arange(32.0) / 2
    cycles = (index[:, None].square() + index.square()).sqrt()
    edges = band_edges(32, 32)
    for removed in range(4):
        inside = (cycles >= edges[removed]) & (cycles < edges[removed + 1])
        frames = to_uint8(from_dct(coefficients.where(~inside, torch.zeros(()))))
        kept = shares(images, frames)
        assert kept.pop(removed) < 0.05
        assert min(kept) > 0.99


def test_bands_are_in_cycles_per_shorter_side_of_a_rectangle() -> None:
    # Four cycles across 16 rows; 32 columns of the same waves.
    rows = torch.cos(torch.pi * 8 / 16 * (torch.arange(16) + 0.5))[:, None].expand(16, 32)
    strength = 0.2 * torch.rand(32, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    images = to_uint8(0.5 + strength * rows)
    kept = shares(images, torch.full_like(images, 128))
    # Edges 0.5, 2, 4 and the corner: the first two bands hold nothing to lose.
    assert band_edges(16, 32)[:3] == (0.5, 2, 4)
    assert kept == [1, 1, 0]
