import numpy as np
import pytest
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.testing.op_suite import OpSuite, structured_images


class TestCutPaste(OpSuite):
    op = "cut_paste"


@pytest.mark.parametrize("shape_BCHW", [(32, 1, 16, 16), (32, 2, 20, 33)])
def test_what_is_pasted_is_numpys_reflected_image_moved_by_the_drawn_displacement(
    shape_BCHW: tuple[int, int, int, int],
) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=0)
    height, width = shape_BCHW[-2:]
    draw = get_op("cut_paste").draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    pasted_BCHW = step("cut_paste", images_BCHW, target=0.5, draw=draw)
    for i in range(shape_BCHW[0]):
        top = height + round(float((draw["from_row_B"][i] - draw["row_B"][i]) * height))
        left = width + round(float((draw["from_column_B"][i] - draw["column_B"][i]) * width))
        padded = np.pad(images_BCHW[i].numpy(), ((0, 0), (height, height), (width, width)), mode="symmetric")
        moved_CHW = torch.from_numpy(padded[:, top : top + height, left : left + width])
        kept_or_moved = (pasted_BCHW[i] == images_BCHW[i]) | ((pasted_BCHW[i] - moved_CHW).abs() < 1e-6)
        # All but the pixels that the box's edges cut.
        assert float((~kept_or_moved).float().mean()) < 2 * (height + width) / (height * width)
        assert float(((pasted_BCHW[i] - moved_CHW).abs() < 1e-6).float().mean()) > 0.3


@pytest.mark.parametrize("area", [0.005, 0.1, 0.4])
def test_the_pasted_box_has_exactly_its_area(area: float) -> None:
    # In the middle of a ramp, what comes from two pixels further is larger by two, times the covered share.
    images_BCHW = torch.arange(64, dtype=torch.float64).expand(8, 1, 16, 64)
    half_B = torch.full((8,), 0.5)
    draw = {"row_B": half_B, "column_B": half_B, "aspect_B": torch.linspace(-1, 1, 8)}
    draw |= {"from_row_B": half_B, "from_column_B": half_B + 2 / 64}
    change_BCHW = step("cut_paste", images_BCHW, target=area, draw=draw) - images_BCHW
    torch.testing.assert_close(change_BCHW.mean(dim=(1, 2, 3)) / 2, torch.full((8,), area, dtype=torch.float64))


def test_one_cut_paste_draw_grows_and_keeps_what_it_pasted() -> None:
    images_BCHW = structured_images((64, 1, 32, 32), seed=0)
    small_BCHW, large_BCHW = (step("cut_paste", images_BCHW, target=area) for area in (0.1, 0.4))
    whole = (small_BCHW - step("cut_paste", images_BCHW, target=0.11)).abs() < 1e-6
    pasted = whole & (small_BCHW != images_BCHW)
    assert float(pasted.float().mean()) > 0.05
    torch.testing.assert_close(large_BCHW[pasted], small_BCHW[pasted])


def test_a_cut_paste_step_takes_the_missing_share_of_what_survives() -> None:
    images_BCHW = structured_images((8, 1, 16, 16), seed=0)
    stepped_BCHW = step("cut_paste", images_BCHW, source=0.2, target=0.6)
    torch.testing.assert_close(stepped_BCHW, step("cut_paste", images_BCHW, target=0.5))
