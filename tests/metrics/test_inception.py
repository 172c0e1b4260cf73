import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from extractor_cases import LIVE_FEATURES, VARIABLE, StandInInception, save_torchscript, weight_file
from torch import Tensor, nn

from autopv.errors import MetricError
from autopv.metrics import inception
from autopv.metrics.extractors import load_extractor
from autopv.metrics.inception import InceptionExtractor, LegacyInceptionExtractor, official_weights
from autopv.metrics.weights import WeightFile, read_weights

# clean-fid loads TorchScript itself.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")
MODES = [InceptionExtractor, LegacyInceptionExtractor]


def stored_images(count: int, *, height: int = 48, width: int = 40) -> Tensor:
    """uint8 colour images that use the whole range."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_torchscript(StandInInception(), tmp_path_factory.mktemp("weights") / "inception-2015-12-05.pt")


@pytest.fixture
def weights(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> WeightFile:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    return weight_file(stand_in.read_bytes())


@pytest.fixture(params=MODES)
def extractor(request: pytest.FixtureRequest, weights: WeightFile) -> InceptionExtractor:
    made: InceptionExtractor = request.param(weights=weights)
    return made


def clean_fid_features(images_uint8: Tensor, *, weights: Path, mode: str) -> Tensor:
    """What clean-fid itself computes, image by image."""
    network = InceptionV3W(str(weights.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    resizer = build_resizer(mode)
    rows = []
    for image in images_uint8:
        pixels = np.asarray(resizer(image.permute(1, 2, 0).numpy()), dtype=np.float32)
        with torch.no_grad():
            rows.append(network(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
    return torch.cat(rows)


def mode_of(extractor: InceptionExtractor) -> str:
    return "legacy_tensorflow" if isinstance(extractor, LegacyInceptionExtractor) else "clean"


@pytest.mark.parametrize("size", [(48, 40), (299, 299), (400, 330)])
def test_features_are_those_of_clean_fid(extractor: InceptionExtractor, stand_in: Path, size: tuple[int, int]) -> None:
    images = stored_images(3, height=size[0], width=size[1])
    expected = clean_fid_features(images, weights=stand_in, mode=mode_of(extractor))
    features = extractor.features(images.float() / 255)
    assert features.shape == (3, 2048)
    assert (features - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (299, 299), (300, 300), (512, 700)])
def test_images_are_resized_as_clean_fid_does(weights: WeightFile, size: tuple[int, int]) -> None:
    (image,) = stored_images(1, height=size[0], width=size[1])
    expected = build_resizer("clean")(image.permute(1, 2, 0).numpy())
    resized = InceptionExtractor(weights=weights).fit(image[None].float() / 255)[0].permute(1, 2, 0)
    assert np.abs(resized.numpy() * 255 - expected).max() < 1e-4


def test_images_are_rounded_to_8_bits_first(extractor: InceptionExtractor) -> None:
    stored = stored_images(2).float() / 255
    assert torch.equal(extractor.features((stored + 0.4 / 255).clamp(0, 1)), extractor.features(stored))


def test_grey_equals_grey_in_three_channels(extractor: InceptionExtractor) -> None:
    grey = stored_images(2)[:, :1].float() / 255
    assert torch.equal(extractor.features(grey), extractor.features(grey.repeat(1, 3, 1, 1)))


def test_features_do_not_depend_on_the_batch(extractor: InceptionExtractor) -> None:
    images = stored_images(extractor.chunk_size + 3).float() / 255
    together = extractor.features(images)
    apart = torch.cat([extractor.features(part) for part in torch.split(images, 5)])
    assert (apart - together).abs().max() < 1e-5 * together.abs().max()
    assert torch.equal(together, extractor.features(images))


def test_the_fast_form_is_the_network(extractor: InceptionExtractor) -> None:
    images = stored_images(2).float() / 255
    fast = extractor.features(images)
    assert extractor._prepared is not None
    assert extractor._prepared[1] is not extractor._part()
    extractor._prepared = (images.device, extractor._part())
    assert (extractor.features(images) - fast).abs().max() < 1e-5 * fast.abs().max()


@pytest.mark.parametrize("fault", ["changes features", "fails"])
def test_a_fast_form_that_is_wrong_is_not_used(
    extractor: InceptionExtractor, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def broken(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        if fault == "fails":
            raise RuntimeError("cannot be frozen")
        return lambda *args, **options: network(*args, **options) * 1.001

    monkeypatch.setattr(inception, "freeze_torchscript", broken)
    extractor.features(stored_images(1).float() / 255)
    assert extractor._prepared is not None
    assert extractor._prepared[1] is extractor._part()


def test_modes_and_weights_have_their_own_digests(weights: WeightFile, tmp_path: Path) -> None:
    digests = {kind(weights=weights).digest for kind in MODES}
    other = save_torchscript(StandInInception(), tmp_path / "other.pt").read_bytes() + b"\n"
    assert len({*digests, weight_file(other).sha256}) == 3
    assert all(len(digest) == 64 for digest in digests)


def test_another_input_size_is_refused(weights: WeightFile) -> None:
    with pytest.raises(MetricError, match="has input_size_px=299, but got 128; leave it out"):
        InceptionExtractor(input_size_px=128, weights=weights)


def test_a_network_of_another_width_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = StandInInception()
    network.layers = nn.Sequential(*list(network.layers)[:-1])
    path = save_torchscript(network, tmp_path / "narrow.pt")
    monkeypatch.setenv(VARIABLE, str(path))
    extractor = InceptionExtractor(weights=weight_file(path.read_bytes()))
    with pytest.raises(MetricError, match=rf"must return \(1, 2048\) .* returned \(1, {LIVE_FEATURES}\)"):
        extractor.features(torch.zeros(1, 3, 32, 32))


def test_weights_that_are_no_torchscript_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    torch.save(StandInInception().state_dict(), path)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(MetricError, match=r"stand-in.pt must be a TorchScript file"):
        InceptionExtractor(weights=weight_file(path.read_bytes()))


def test_the_official_file_is_the_default(stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(inception.WEIGHTS_VARIABLE, str(stand_in))
    for name in ("inception", "inception-legacy"):
        with pytest.raises(MetricError, match="must have 95,607,719 bytes"):
            load_extractor(name)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    try:
        content = read_weights(official_weights(), download=False)
    except MetricError as error:
        pytest.skip(f"the official weights are not here: {error}")
    path = tmp_path / "inception-2015-12-05.pt"
    path.write_bytes(content)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODES)
def test_the_official_network_gives_the_features_of_clean_fid(official: Path, kind: type[InceptionExtractor]) -> None:
    images = stored_images(3, height=96, width=80)
    extractor = kind()
    features = extractor.features(images.float() / 255)
    expected = clean_fid_features(images, weights=official, mode=mode_of(extractor))
    assert (features - expected).abs().max() < 1e-4 * expected.abs().max()
    assert os.path.getsize(official) == official_weights().size_bytes
