import math

import numpy as np
import pytest
import torch
from op_cases import CPU, step

from autopv.policy.ops import get_op
from autopv.policy.ops.dent import MAX_RADIUS
from autopv.testing.op_suite import OpSuite, structured_images

Shape = tuple[int, int, int, int]


class TestDent(OpSuite):
    op = "dent"
    least_change = 0.01  # a fifth of the image, most of it not steep


@pytest.mark.parametrize("shape_BCHW", [(6, 1, 200, 200), (6, 1, 160, 240)])
def test_a_dent_is_the_slope_of_its_surface_along_the_light(shape_BCHW: Shape) -> None:
    """Against numerical differences of the height field."""
    draw = get_op("dent").draw(shape_BCHW, generator=torch.Generator().manual_seed(1), device=CPU)
    draw = {**draw, "row_B": torch.full((6,), 0.5), "column_B": torch.full((6,), 0.5)}
    shade_BHW = (step("dent", torch.ones(shape_BCHW), target=0.5, draw=draw)[:, 0] - 1).numpy() / 0.5
    height, width = shape_BCHW[-2:]
    shorter = min(height, width)
    row_HW, column_HW = np.mgrid[:height, :width]
    row_HW, column_HW = (row_HW + 0.5 - height / 2) / shorter, (column_HW + 0.5 - width / 2) / shorter
    for i in range(6):
        longer, narrower, axis, light = (float(draw[f"{name}_B"][i]) for name in ("longer", "shorter", "axis", "light"))
        along_HW = column_HW * math.cos(axis) + row_HW * math.sin(axis)
        across_HW = row_HW * math.cos(axis) - column_HW * math.sin(axis)
        surface_HW = np.clip(1 - (along_HW / longer) ** 2 - (across_HW / narrower) ** 2, 0, None) ** 2
        by_row_HW, by_column_HW = np.gradient(surface_HW)
        toward_along, toward_across = longer * math.cos(light), narrower * math.sin(light)
        toward_row = toward_along * math.sin(axis) + toward_across * math.cos(axis)
        toward_column = toward_along * math.cos(axis) - toward_across * math.sin(axis)
        slope_HW = -(by_row_HW * toward_row + by_column_HW * toward_column)
        np.testing.assert_allclose(shade_BHW[i], slope_HW / slope_HW.max(), atol=0.04)
        assert shade_BHW[i].max() == pytest.approx(1, abs=0.01)
        assert shade_BHW[i].mean() == pytest.approx(0, abs=1e-5)


def test_one_dent_draw_deepens() -> None:
    images_BCHW = structured_images((32, 3, 32, 32), seed=0)
    shallow_BCHW, deep_BCHW = (step("dent", images_BCHW, target=slope) - images_BCHW for slope in (0.1, 0.5))
    torch.testing.assert_close(deep_BCHW, 5 * shallow_BCHW, atol=1e-5, rtol=0)
    assert bool((deep_BCHW.abs() >= shallow_BCHW.abs() - 1e-6).all())


def test_nothing_changes_outside_a_dent() -> None:
    images_BCHW = structured_images((128, 1, 64, 64), seed=0)
    unchanged_B = (step("dent", images_BCHW, target=0.6) == images_BCHW).float().mean(dim=(1, 2, 3))
    assert float(unchanged_B.min()) > 1 - math.pi * (MAX_RADIUS + 0.02) ** 2
    assert float(unchanged_B.median()) > 0.8


def test_dents_are_zero_on_average_and_steps_add_variances() -> None:
    images_BCHW = torch.ones(1, 1, 16, 16).expand(8192, -1, -1, -1)
    change_HW = (step("dent", images_BCHW, target=0.6) - 1).mean(dim=(0, 1))
    assert float(change_HW.abs().max()) < 0.02
    stepped_BCHW = step("dent", images_BCHW, source=0.3, target=0.5)
    torch.testing.assert_close(stepped_BCHW, step("dent", images_BCHW, target=0.4))
