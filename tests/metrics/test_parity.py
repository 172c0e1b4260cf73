"""Our Fréchet distance against that of other packages, image files to number, with one network."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cleanfid import fid
from cleanfid.inception_torchscript import InceptionV3W
from extractor_cases import LIVE_FEATURES, VARIABLE, StandInInception, save_torchscript, weight_file
from PIL import Image
from torch import Tensor, nn

from autopv.errors import MetricError
from autopv.metrics.frechet import frechet_distance
from autopv.metrics.inception import InceptionExtractor, LegacyInceptionExtractor, official_weights
from autopv.metrics.weights import read_weights

pytestmark = [
    # clean-fid loads TorchScript itself, and takes scipy's matrix square root in a way that is going away.
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*disp.*:DeprecationWarning"),
]
FIVE_DIGITS = 5e-6
MODES = {"clean": InceptionExtractor, "legacy_tensorflow": LegacyInceptionExtractor}
NUM_IMAGES = 96


def images(*, seed: int, contrast: float, channels: int = 3) -> Tensor:
    """Smooth uint8 images, the darker the less contrast."""
    coarse = torch.rand(NUM_IMAGES, channels, 7, 6, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=(56, 48), mode="bicubic").clamp(0, 1)
    return (smooth * contrast * 255).round().to(torch.uint8)


def write_pngs(images_uint8: Tensor, folder: Path) -> str:
    folder.mkdir()
    for index, image in enumerate(images_uint8):
        Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()).save(folder / f"{index:04d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_torchscript(StandInInception(), tmp_path_factory.mktemp("weights") / "inception-2015-12-05.pt")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def extractor(mode: str, stand_in: Path, monkeypatch: pytest.MonkeyPatch) -> InceptionExtractor:
    monkeypatch.setenv(VARIABLE, str(stand_in))
    return MODES[mode](weights=weight_file(stand_in.read_bytes()))


def our_distance(extractor: InceptionExtractor, a_uint8: Tensor, b_uint8: Tensor) -> float:
    return frechet_distance(extractor.features(a_uint8.float() / 255), extractor.features(b_uint8.float() / 255))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_distance_agrees_with_clean_fid(
    tmp_path: Path, stand_in: Path, extractor: InceptionExtractor, mode: str, channels: int
) -> None:
    first, second = images(seed=0, contrast=1, channels=channels), images(seed=1, contrast=0.5, channels=channels)
    folders = write_pngs(first, tmp_path / "first"), write_pngs(second, tmp_path / "second")
    network = InceptionV3W(str(stand_in.parent), download=False, resize_inside=mode == "legacy_tensorflow").eval()
    try:
        theirs = fid.compute_fid(
            *folders,
            mode=mode,
            num_workers=0,
            batch_size=32,
            device=torch.device("cpu"),
            # The others are 0: they change nothing, but clean-fid's square root breaks on singular covariances.
            custom_feat_extractor=lambda batch: network(batch)[:, :LIVE_FEATURES],
            verbose=False,
        )
    except TypeError as error:
        pytest.skip(f"clean-fid does not work with this scipy: {error}")
    assert our_distance(extractor, first, second) == pytest.approx(theirs, rel=FIVE_DIGITS)


def test_distance_of_clean_fids_features_agrees(tmp_path: Path, stand_in: Path, extractor: InceptionExtractor) -> None:
    # The same with a matrix square root of our own, whatever version of scipy there is.
    mode = next(name for name, kind in MODES.items() if kind is type(extractor))
    network = InceptionV3W(str(stand_in.parent), download=False, resize_inside=mode == "legacy_tensorflow").eval()
    sets = images(seed=0, contrast=1)[:64], images(seed=1, contrast=0.5)[:64]
    means, covariances = [], []
    for index, part in enumerate(sets):
        features = fid.get_folder_features(
            write_pngs(part, tmp_path / str(index)),
            network,
            num_workers=0,
            device=torch.device("cpu"),
            mode=mode,
            verbose=False,
        )[:, :LIVE_FEATURES].astype(np.float64)
        means.append(features.mean(axis=0))
        covariances.append(np.cov(features, rowvar=False))
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    theirs = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1]) - 2 * roots
    assert our_distance(extractor, *sets) == pytest.approx(theirs, rel=FIVE_DIGITS)


class LiveFeatures(nn.Module):
    """The extractor as torchmetrics wants it: uint8 images to the features that are not always 0."""

    num_features = LIVE_FEATURES

    def __init__(self, extractor: InceptionExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images_uint8: Tensor) -> Tensor:
        return self.extractor.features(images_uint8.float() / 255)[:, :LIVE_FEATURES]


@pytest.mark.slow
def test_distance_agrees_with_torchmetrics(extractor: InceptionExtractor) -> None:
    torchmetrics_fid = pytest.importorskip("torchmetrics.image.fid", reason="torchmetrics is not installed")
    first, second = images(seed=0, contrast=1), images(seed=1, contrast=0.5)
    metric = torchmetrics_fid.FrechetInceptionDistance(feature=LiveFeatures(extractor))
    for part, real in ((first, True), (second, False)):
        metric.update(part, real=real)
    assert our_distance(extractor, first, second) == pytest.approx(float(metric.compute()), rel=FIVE_DIGITS)


@pytest.mark.slow
def test_official_distance_agrees_with_clean_fid(tmp_path: Path, mode: str) -> None:
    try:
        content = read_weights(official_weights(), download=False)
    except MetricError as error:
        pytest.skip(f"the official weights are not here: {error}")
    (tmp_path / "inception-2015-12-05.pt").write_bytes(content)
    network = InceptionV3W(str(tmp_path), download=False, resize_inside=mode == "legacy_tensorflow").eval()
    sets = images(seed=0, contrast=1)[:32], images(seed=1, contrast=0.5)[:32]
    theirs = [
        torch.from_numpy(
            fid.get_folder_features(
                write_pngs(part, tmp_path / str(index)),
                network,
                num_workers=0,
                batch_size=16,
                device=torch.device("cpu"),
                mode=mode,
                verbose=False,
            )
        )
        for index, part in enumerate(sets)
    ]
    # Of so few images in 2048 dimensions clean-fid's square root is inaccurate: hence its features, but our distance.
    assert our_distance(MODES[mode](), *sets) == pytest.approx(frechet_distance(*theirs), rel=FIVE_DIGITS)


def test_the_installed_clean_fid_is_the_one_described() -> None:
    # The modes are named after clean-fid's; it must still know them.
    source = Path(importlib.import_module("cleanfid.features").__file__ or "").read_text()
    assert all(f'mode == "{name}"' in source for name in MODES)
