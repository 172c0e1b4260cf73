import pytest
import torch
from torch import Tensor

from autopv.policy.ops import strokes
from autopv.policy.ops.scratch import WIDTH, Scratch
from autopv.testing.op_suite import OpSuite, structured_images

Shape = tuple[int, int, int, int]


class TestScratch(OpSuite):
    op = "scratch"
    least_change = 0.004  # one thin line


def scratched(images_BCHW: Tensor, *, target: float, source: float = 0.0) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    generator, device = torch.Generator().manual_seed(0), torch.device("cpu")
    draw = dict(Scratch().draw((batch, channels, height, width), generator=generator, device=device))
    draw.update(Scratch().prepare(images_BCHW, masks_BHW=None, donors_NCHW=None))
    return Scratch().corrupt(images_BCHW, draw, source=source, target=target)


def coverage(shape_BCHW: Shape, *, length: float) -> Tensor:
    """The covered share of every pixel: on black images a scratch is as bright as the least contrast."""
    return scratched(torch.zeros(shape_BCHW), target=length) / strokes.MIN_CONTRAST


@pytest.mark.parametrize("shape_BCHW", [(64, 1, 64, 64), (64, 1, 16, 40)])
def test_one_scratch_draw_lengthens(shape_BCHW: Shape) -> None:
    lengths = (0.05, 0.1, 0.3, 0.7, 1.0, 1.4)
    coverages = [coverage(shape_BCHW, length=length) for length in lengths]
    for i in range(len(lengths) - 1):
        assert bool((coverages[i + 1] >= coverages[i]).all())
        assert bool((coverages[i + 1] > coverages[i] + 0.2).flatten(start_dim=1).any(dim=1).float().mean() > 0.4)


@pytest.mark.parametrize("length", [0.3, 0.6])
def test_a_scratch_is_as_long_as_its_magnitude(length: float) -> None:
    covered_BHW = coverage((256, 1, 128, 128), length=length)[:, 0] > 0.25
    place_N = (torch.arange(128) + 0.5) / 128
    spans = []
    for dim in (2, 1):
        hit_BN = covered_BHW.any(dim=dim)
        first_B = torch.where(hit_BN, place_N, 2.0).amin(dim=1)
        last_B = torch.where(hit_BN, place_N, -1.0).amax(dim=1)
        spans.append(last_B - first_B)
    median = float(torch.hypot(*spans).median())
    assert 0.75 * length < median < 1.1 * length  # its ends fade out


def test_a_scratch_is_thin_at_every_resolution() -> None:
    for size_px in (64, 128, 256):
        area = float(coverage((64, 1, size_px, size_px), length=0.6).mean())
        width = max(WIDTH, strokes.MIN_WIDTH_PX / size_px)
        assert 0.4 * 0.6 * width < area < 0.6 * width


def test_scratches_lie_everywhere() -> None:
    assert float(coverage((2048, 1, 16, 16), length=0.2).amax(dim=0).min()) > 0.5


def test_a_scratch_step_adds_a_scratch_of_the_difference() -> None:
    images_BCHW = structured_images((8, 3, 32, 32), seed=0)
    torch.testing.assert_close(scratched(images_BCHW, source=0.3, target=0.8), scratched(images_BCHW, target=0.8 - 0.3))


def test_a_scratch_is_seen_on_dark_and_on_bright_images() -> None:
    for value in (0.0, 0.1, 0.5, 0.9, 1.0):
        images_BCHW = torch.full((32, 1, 64, 64), value)
        change_B = (scratched(images_BCHW, target=0.7).clamp(0, 1) - value).abs().amax(dim=(1, 2, 3))
        assert float(change_B.min()) > 0.08
