import os
from pathlib import Path

import pytest
import torch
from extractor_cases import save_torchscript
from torch import Tensor, nn

from autopv.errors import MetricError
from autopv.metrics.extractors import load_extractor
from autopv.metrics.user_networks import UserExtractor, network_digest, read_network


class Pooled(nn.Module):
    """Normalises, convolves and pools: (B, D, 1, 1)."""

    def __init__(self, *, num_features: int = 12, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, num_features, 5, stride=2),
            nn.BatchNorm2d(num_features),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.AdaptiveAvgPool2d(1),
        )
        generator = torch.Generator().manual_seed(1)
        for value in self.parameters():
            value.data.copy_(torch.rand(value.shape, generator=generator) - 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.sub_(0.5).mul_(2))


class Returns(nn.Module):
    """Returns what it is told to."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> object:
        return self.function(images)  # type: ignore[operator]


def extractor_of(network: nn.Module, *, input_size_px: int | None = None) -> UserExtractor:
    return UserExtractor(network, name="mine", weights_digest=network_digest(network), input_size_px=input_size_px)


def images(count: int = 3, *, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 40, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return save_torchscript(Pooled(), tmp_path / "net.pt")


def test_features_are_the_networks_own() -> None:
    network = Pooled(dropout=0.5).eval()
    with torch.no_grad():
        expected = network(images().clone()).flatten(1)
    extractor = extractor_of(network.train(), input_size_px=40)
    assert torch.allclose(extractor.features(images()), expected, atol=1e-6)
    assert (extractor.name, extractor.num_features, extractor.precision) == ("mine", 12, "fp32")


def test_the_callers_images_are_left_alone() -> None:
    given = images()
    kept = given.clone()
    extractor_of(Pooled(), input_size_px=40).features(given)
    assert torch.equal(given, kept)


def test_grey_equals_grey_in_three_channels() -> None:
    extractor, grey = extractor_of(Pooled()), images(channels=1)
    assert torch.equal(extractor.features(grey), extractor.features(grey.repeat(1, 3, 1, 1)))


def test_vectors_are_taken_as_well() -> None:
    assert extractor_of(nn.Sequential(Pooled(), nn.Flatten())).features(images()).shape == (3, 12)


def test_a_torchscript_file_gives_the_features_of_its_network(script: Path) -> None:
    extractor = load_extractor(str(script))
    assert torch.allclose(extractor.features(images()), extractor_of(Pooled()).features(images()), atol=1e-6)
    assert (extractor.name, extractor.input_size_px) == ("net.pt", 128)


def test_the_networks_input_size_is_the_default() -> None:
    network = Pooled()
    network.input_size_px = 48
    assert extractor_of(network).input_size_px == 48
    assert extractor_of(network, input_size_px=64).input_size_px == 64


def test_digest_follows_class_and_state() -> None:
    digest = network_digest(Pooled())
    assert network_digest(Pooled()) == digest
    assert network_digest(nn.Sequential(Pooled())) != digest
    for change in ("layers.0.bias", "layers.1.running_var", "layers.1.num_batches_tracked"):
        other = Pooled()
        other.state_dict()[change].add_(1)
        assert network_digest(other) != digest
    assert extractor_of(Pooled()).digest != digest


def test_digest_of_a_file_is_that_of_its_bytes(script: Path) -> None:
    first = read_network(script)[1]
    assert read_network(script)[1] == first
    save_torchscript(Pooled(num_features=13), script)
    assert read_network(script)[1] != first


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float64, "fp64")])
def test_precision_is_that_of_the_weights(dtype: torch.dtype, precision: str) -> None:
    linear = nn.Linear(3, 4).to(dtype)
    network = Returns(lambda x: linear(x.mean(dim=(2, 3)).to(dtype)))
    network.linear = linear
    assert extractor_of(network).precision == precision
    assert extractor_of(network).features(images()).dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda x: x, r"must return \(B, D\) or \(B, D, 1, 1\), but mine returned \(4, 3, 128, 128\)"),
        (lambda x: x.mean(), r"returned \(\)"),
        (lambda x: x.mean(dim=(2, 3))[:2], r"returned \(2, 3\)"),
        (lambda x: x.mean(dim=(2, 3))[:, :0], r"returned \(4, 0\)"),
        (lambda x: (x.mean(dim=(2, 3)),), "must return floating-point features as one tensor, but mine returned tuple"),
        (lambda x: x.amax(dim=(2, 3)).long(), "must return floating-point .* returned torch.int64"),
        (lambda x: x.mean(dim=(2, 3)) / 0, "features must be finite, but mine returned nan or inf"),
        (lambda x: x.mean(dim=(2, 3)) + torch.rand(3), "must give the same features for the same images"),
        (lambda x: x.mean(dim=(2, 3)) - x.mean(), "must not depend on the other images of a batch"),
        (lambda x: nn.functional.dropout(x.mean(dim=(2, 3))), "must give the same features"),
        (lambda x: x @ torch.zeros(3, 3), "mine cannot take .4, 3, 128, 128.: .*is another input size meant"),
    ],
)
def test_a_network_that_breaks_a_rule_is_refused(function: object, rule: str) -> None:
    with pytest.raises(MetricError, match=rule):
        extractor_of(Returns(function))


def test_a_network_for_one_size_only_is_refused_at_others() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 32), nn.Flatten(), nn.Linear(2, 5))
    assert extractor_of(network, input_size_px=32).num_features == 5
    with pytest.raises(MetricError, match=r"mine cannot take \(4, 3, 64, 64\)"):
        extractor_of(network, input_size_px=64)


def test_features_that_become_infinite_are_refused() -> None:
    # Fine for the images it is tried with, not for black ones.
    extractor = extractor_of(Returns(lambda x: x.mean(dim=(2, 3)).log()))
    black = images()
    black[1] = 0
    with pytest.raises(MetricError, match="'mine' gave nan or inf for 1 of 3 images"):
        extractor.features(black)


@pytest.mark.parametrize(("content", "rule"), [(b"", "must be a TorchScript file"), (b"text" * 99, "not a state dict")])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes, rule: str) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content)
    with pytest.raises(MetricError, match=f"{path} must be .*{rule.removeprefix('must be ')}"):
        read_network(path)


def test_a_truncated_file_is_refused(script: Path) -> None:
    script.write_bytes(script.read_bytes()[:-100])
    with pytest.raises(MetricError, match="must be a TorchScript file"):
        read_network(script)


def test_a_file_that_others_can_write_is_refused_unread(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopv.metrics.user_networks.load_torchscript", None)
    os.chmod(script, 0o666)
    with pytest.raises(MetricError, match=f"{script}: everybody can write to it; run `chmod go-w {script}`"):
        read_network(script)


def test_a_file_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=r"none.pt is not a file"):
        load_extractor(str(tmp_path / "none.pt"))
