import numpy as np
import pytest
import torch

from autopv.policy.ops.levels import level_below, sorted_samples


@pytest.mark.parametrize("share", [0.001, 0.3, 0.77, 1.0])
def test_a_level_is_numpys_quantile_of_the_pixels(share: float) -> None:
    field_BHW = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0))
    expected = np.quantile(field_BHW.flatten(start_dim=1).numpy(), share, axis=1, method="hazen")
    torch.testing.assert_close(level_below(sorted_samples(field_BHW), share=share), torch.from_numpy(expected).float())


@pytest.mark.parametrize("shape_BHW", [(1, 8, 8), (2, 64, 33), (1, 8, 257)])
def test_large_fields_are_sampled_on_a_regular_grid(shape_BHW: tuple[int, int, int]) -> None:
    batch, height, width = shape_BHW
    rows_BHW = torch.arange(float(height))[:, None].expand(batch, height, width)
    samples_BN = sorted_samples(rows_BHW)
    assert samples_BN.shape[1] <= 32 * 32
    assert torch.equal(samples_BN, samples_BN.sort(dim=1).values)
    assert float(samples_BN.mean()) == pytest.approx((height - 1) / 2, abs=0.5)
