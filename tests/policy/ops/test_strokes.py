import math

import numpy as np
import pytest
import torch
from torch import Tensor

from autopv.policy.ops import strokes

SHAPES_BCHW = [(512, 1, 64, 64), (512, 1, 24, 96), (512, 1, 96, 24)]


def straight_line(start: tuple[float, float], end: tuple[float, float], *, width: float, size_px: int) -> Tensor:
    """The coverage (H, W) of a whole line, its ends not faded out."""
    sigma = strokes.line_sigma(width, shorter_px=size_px)
    first_2, last_2 = torch.tensor(start), torch.tensor(end)
    num_points = strokes.points_along(float((last_2 - first_2).norm()), sigma=sigma)
    points_BN2 = (first_2 + torch.linspace(0, 1, num_points)[:, None] * (last_2 - first_2))[None]
    arc_BN, weight_BN = strokes.arc_lengths(points_BN2)
    draw = strokes.line_draw(
        points_BN2, weight_BN=weight_BN, birth_BN=0 * arc_BN, sigma=sigma, shape_BCHW=(1, 1, size_px, size_px)
    )
    return strokes.line_coverage(draw, length=1.0, taper=0.5, dtype=torch.float64)[0, 0]


@pytest.mark.parametrize("width", [0.02, 0.1])
def test_a_line_across_the_image_covers_its_width(width: float) -> None:
    coverage_HW = straight_line((0.5, -0.5), (0.5, 1.5), width=width, size_px=128)
    assert float(coverage_HW.mean()) == pytest.approx(width, rel=0.01)


def test_a_thin_line_keeps_the_least_width_in_pixels() -> None:
    coverage_HW = straight_line((0.3, -0.5), (0.7, 1.5), width=0.001, size_px=16)
    assert float(coverage_HW.mean()) * 16 == pytest.approx(strokes.MIN_WIDTH_PX / math.cos(math.atan(0.2)), rel=0.03)
    assert float(coverage_HW.amax(dim=0).min()) > 0.7, "no gaps"


def test_a_line_of_splats_is_a_function_of_the_distance_from_the_line() -> None:
    coverage_HW = straight_line((-0.4, -0.2), (1.4, 1.0), width=0.04, size_px=64)
    row_H1 = (torch.arange(64, dtype=torch.float64)[:, None] + 0.5) / 64
    column_W = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    distance_HW = ((row_H1 + 0.4) * 1.2 - (column_W + 0.2) * 1.8) / math.hypot(1.2, 1.8)
    bell_HW = torch.exp(-0.5 * (distance_HW / (0.04 / strokes.WIDTH_IN_SIGMAS)) ** 2)
    expected_HW = 1 - torch.exp(-strokes.SATURATION * bell_HW)
    assert float((coverage_HW - expected_HW).abs().max()) < 0.06  # a ripple of 15% in the exponent


@pytest.mark.parametrize("shape_BCHW", SHAPES_BCHW)
def test_a_chord_runs_from_border_to_border_or_is_cut_about_its_origin(shape_BCHW: tuple[int, int, int, int]) -> None:
    uniform_5B = torch.rand(5, shape_BCHW[0], generator=torch.Generator().manual_seed(0))
    whole = strokes.chords(uniform_5B[:3], shape_BCHW=shape_BCHW, origin_B=uniform_5B[3], longest=100.0)
    side_2 = torch.tensor(strokes.sides(shape_BCHW))
    for end_B2 in whole:
        from_border_B2 = torch.minimum(end_B2.abs(), (end_B2 - side_2).abs())
        assert float(from_border_B2.amin(dim=1).max()) < 1e-4
        assert bool(((end_B2 > -1e-4) & (end_B2 < side_2 + 1e-4)).all())
    cut = strokes.chords(uniform_5B[:3], shape_BCHW=shape_BCHW, origin_B=uniform_5B[3], longest=0.7)
    whole_B, cut_B = ((last_B2 - first_B2).norm(dim=1) for first_B2, last_B2 in (whole, cut))
    torch.testing.assert_close(cut_B, whole_B.clamp(max=0.7))
    origins = [first_B2 + uniform_5B[3][:, None] * (last_B2 - first_B2) for first_B2, last_B2 in (whole, cut)]
    torch.testing.assert_close(*origins, atol=1e-5, rtol=0)


def test_a_line_grown_to_a_length_has_that_length() -> None:
    generator = torch.Generator().manual_seed(0)
    points_BN2 = torch.rand(64, 400, 2, generator=generator).cumsum(dim=1) / 200
    arc_BN, weight_BN = strokes.arc_lengths(points_BN2)
    torch.testing.assert_close(weight_BN.sum(dim=1), arc_BN[:, -1])
    origin_B = strokes.between(torch.rand(64, generator=generator), (0.02, 0.98))
    birth_BN = strokes.births(arc_BN, origin_B=origin_B)
    for share in (0.1, 0.5, 0.9, 1.001):
        length_B1 = share * arc_BN[:, -1:]
        grown_B = torch.where(birth_BN <= length_B1, weight_BN, 0.0).sum(dim=1)
        assert float((grown_B - length_B1[:, 0]).abs().max()) < 0.02


def test_hats_interpolate_linearly() -> None:
    values_V = torch.rand(7, generator=torch.Generator().manual_seed(0))
    expected_N = np.interp(np.linspace(0, 6, 50), np.arange(7), values_V.numpy())
    interpolated_N = strokes.hats(50, 7, device=torch.device("cpu")) @ values_V
    torch.testing.assert_close(interpolated_N, torch.from_numpy(expected_N).float())


@pytest.mark.parametrize("value", [0.0, 0.2, 0.5, 1.0])
def test_tones_are_dark_as_often_as_the_image_is_bright_and_differ_from_it(value: float) -> None:
    images_BCHW = torch.full((1, 3, 8, 8), value).expand(4096, -1, -1, -1)
    sign_B = torch.rand(4096, generator=torch.Generator().manual_seed(0))
    draw = {**strokes.image_statistics(images_BCHW), "sign_B": sign_B}
    sign_B111 = strokes.dark_or_bright(draw)
    assert float((sign_B111 < 0).float().mean()) == pytest.approx(value, abs=0.03)
    tone_BC11 = strokes.tone(draw, sign_B111=sign_B111, contrast_B=torch.full((4096,), 2.0))
    assert float((tone_BC11 - value).abs().min()) == pytest.approx(strokes.MIN_CONTRAST)


def test_a_tone_is_the_contrast_away_from_the_mean_in_standard_deviations() -> None:
    images_BCHW = 0.4 + 0.1 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images_BCHW[:, 1] += 0.3
    images_BCHW[:, :, ::2] *= 0.6
    statistics = strokes.image_statistics(images_BCHW)
    deviation_B = (images_BCHW - images_BCHW.mean(dim=(2, 3), keepdim=True)).flatten(1).std(dim=1, correction=0)
    tone_BC11 = strokes.tone(statistics, sign_B111=-1.0, contrast_B=torch.full((8,), 2.5))
    expected_BC = images_BCHW.mean(dim=(2, 3)) - 2.5 * deviation_B[:, None]
    torch.testing.assert_close(tone_BC11[..., 0, 0], expected_BC.clamp(0, 1))
