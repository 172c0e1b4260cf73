import math

import pytest
import torch
from op_cases import CPU
from torch import Tensor

from autopv.policy.ops.fields import uniform_field
from autopv.policy.ops.perlin import perlin_noise


def noise(shape_BHW: tuple[int, int, int], *, seed: int = 0, length: float = 0.3, octaves: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return perlin_noise(shape_BHW, length=length, octaves=octaves, generator=generator, device=CPU)


@pytest.mark.parametrize("shape_BHW", [(2, 12, 12), (2, 10, 25)])
def test_the_noise_is_perlins_sum_over_the_four_corners_of_a_pixels_cell(shape_BHW: tuple[int, int, int]) -> None:
    batch, height, width = shape_BHW
    cell_px = 0.3 * min(height, width)
    generator = torch.Generator().manual_seed(3)
    nodes = [math.ceil(size / cell_px) + 2 for size in (height, width)]
    angle_BYX = uniform_field((batch, *nodes), generator=generator, device=CPU) * 2 * math.pi
    shift_2B = torch.rand(2, batch, generator=generator)
    noise_BHW = noise(shape_BHW, seed=3)
    for b in range(batch):
        for y, x in ((0, 0), (height - 1, width - 1), (4, 7)):
            v, u = (float(shift_2B[i, b]) + (pixel + 0.5) / cell_px for i, pixel in enumerate((y, x)))
            expected = 0.0
            for row in (math.floor(v), math.floor(v) + 1):
                for column in (math.floor(u), math.floor(u) + 1):
                    dy, dx, angle = v - row, u - column, float(angle_BYX[b, row, column])
                    expected += fade(dy) * fade(dx) * (math.sin(angle) * dy + math.cos(angle) * dx)
            assert float(noise_BHW[b, y, x]) == pytest.approx(expected / math.sqrt(181 / 231 * 535 / 9009), abs=1e-5)


def fade(distance: float) -> float:
    t = 1 - abs(distance)
    return 6 * t**5 - 15 * t**4 + 10 * t**3


@pytest.mark.parametrize("octaves", [1, 4])
def test_the_noise_has_mean_0_and_variance_1_at_every_pixel(octaves: int) -> None:
    noise_BHW = noise((4000, 8, 11), octaves=octaves)
    assert float(noise_BHW.mean(dim=0).abs().max()) < 5 / math.sqrt(4000)
    assert float((noise_BHW.var(dim=0) - 1).abs().max()) < 5 * math.sqrt(2 / 4000)


def test_the_noise_means_the_same_at_every_size_and_octaves_add_detail() -> None:
    small_BHW, large_BHW = noise((2000, 8, 8)), noise((2000, 32, 32))
    for pixels in (1, 3):  # neighbours an eighth of the side apart, and three eighths
        correlations = [
            float((field_BHW[:, :, step:] * field_BHW[:, :, :-step]).mean())
            for field_BHW, step in ((small_BHW, pixels), (large_BHW, 4 * pixels))
        ]
        assert correlations[0] == pytest.approx(correlations[1], abs=0.05)
    rough_BHW = noise((2000, 32, 32), octaves=4)
    assert float(rough_BHW.diff(dim=2).square().mean()) > 2 * float(large_BHW.diff(dim=2).square().mean())
