import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from extractor_cases import save_torchscript

from autopv.errors import MetricError
from autopv.metrics import extractors
from autopv.metrics.extractors import extractor_names, load_extractor, user_entry_points

MODULE = """
import torch
from torch import nn
from autopv.metrics.features import Extractor

class Means(nn.Module):
    input_size_px = 32

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        return images.mean(dim=(2, 3)) * self.scale

def factory():
    return Means(scale=2.0)

instance = Means(scale=3.0)
number = 5

def wants_more(argument):
    return Means()

def gives_text():
    return "text"

class Own(Extractor):
    name = "own"
    num_features = 3
    default_input_size_px = 40
    digest = "d" * 64

    def forward_rgb(self, images_BCHW):
        return images_BCHW.mean(dim=(2, 3))

class Unfinished(Extractor):
    name = "unfinished"
"""
IMAGES = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def fresh_registry() -> Iterator[None]:
    """Nothing loaded before is found, and nothing loaded here is left."""
    forget()
    yield
    forget()


def forget() -> None:
    extractors._load.cache_clear()
    extractors._source.cache_clear()


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, with one module in it."""
    (tmp_path / "extractors_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "extractors_of_a_user", raising=False)
    return tmp_path


def install(folder: Path, *, name: str, entries: str) -> None:
    """Makes the folder hold an installed package with these entry points."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[autopv.extractors]\n{entries}\n")


def test_names_are_those_of_autopv_and_of_installed_packages(package: Path) -> None:
    assert extractor_names() == ("lite0", "inception", "inception-legacy")
    install(package, name="theirs", entries="means = extractors_of_a_user:Means")
    assert extractor_names() == ("lite0", "inception", "inception-legacy", "means")


@pytest.mark.parametrize(("attribute", "scale"), [("Means", 1), ("factory", 2), ("instance", 3)])
def test_modules_classes_and_factories_are_taken(attribute: str, scale: float) -> None:
    extractor = load_extractor(f"extractors_of_a_user:{attribute}", input_size_px=48)
    assert torch.allclose(extractor.features(IMAGES), IMAGES.mean(dim=(2, 3)) * scale, atol=1e-6)
    assert extractor.spec == extractor.name == f"extractors_of_a_user:{attribute}"


def test_a_subclass_of_extractor_is_taken() -> None:
    extractor = load_extractor("extractors_of_a_user:Own")
    assert (extractor.name, extractor.spec) == ("own", "extractors_of_a_user:Own")
    assert extractor.input_size_px == 40
    assert extractor.features(IMAGES).shape == (2, 3)


def test_an_entry_point_is_known_by_its_name(package: Path) -> None:
    install(package, name="theirs", entries="means = extractors_of_a_user:factory\nown = extractors_of_a_user:Own")
    extractor = load_extractor("means")
    assert (extractor.name, extractor.spec, extractor.input_size_px) == ("means", "means", 32)
    assert load_extractor("own").spec == "own"


def test_names_offered_twice_are_refused(package: Path) -> None:
    install(package, name="theirs", entries="means = extractors_of_a_user:Means")
    install(package, name="others", entries="means = extractors_of_a_user:factory")
    with pytest.raises(MetricError, match=r"'means' is offered by extractors_of_a_user:Means and by extractors_of_a"):
        user_entry_points()


def test_names_of_autopv_cannot_be_taken_over(package: Path) -> None:
    install(package, name="theirs", entries="lite0 = extractors_of_a_user:Means")
    with pytest.raises(MetricError, match="'lite0' is offered by autopv and by extractors_of_a_user:Means"):
        load_extractor("means")


def test_an_extractor_is_loaded_once_per_size() -> None:
    first = load_extractor("extractors_of_a_user:Means")
    assert load_extractor("extractors_of_a_user:Means") is first
    assert load_extractor("extractors_of_a_user:Means", input_size_px=32) is first
    assert load_extractor("extractors_of_a_user:Means", input_size_px=64) is not first
    assert load_extractor("lite0") is load_extractor("lite0", input_size_px=128)


def test_a_file_is_known_by_its_whole_path(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_torchscript(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1)), package / "net.ts")
    monkeypatch.chdir(package)
    extractor = load_extractor("net.ts")
    assert extractor.spec == str(package / "net.ts")
    assert load_extractor(str(package / "net.ts")) is extractor


@pytest.mark.parametrize("spec", ["lite0", "extractors_of_a_user:factory", "extractors_of_a_user:Own"])
def test_a_pickled_extractor_is_its_spec(spec: str) -> None:
    extractor = load_extractor(spec, input_size_px=48)
    content = pickle.dumps(extractor)
    assert len(content) < 1000
    assert pickle.loads(content) is extractor


@pytest.mark.slow
def test_another_process_makes_the_same_extractor(package: Path) -> None:
    extractor = load_extractor("extractors_of_a_user:factory", input_size_px=48)
    (package / "pickled").write_bytes(pickle.dumps(extractor))
    code = "import pickle, sys; sys.path.insert(0, sys.argv[1]); e = pickle.load(open(sys.argv[1] + '/pickled', 'rb'))"
    code += "; print(e.digest, e.spec, e.input_size_px)"
    output = subprocess.run([sys.executable, "-c", code, package], check=True, capture_output=True, text=True).stdout
    assert output.split() == [extractor.digest, "extractors_of_a_user:factory", "48"]


def test_a_pickle_of_other_weights_is_refused(package: Path) -> None:
    content = pickle.dumps(load_extractor("extractors_of_a_user:instance"))
    forget()
    sys.modules["extractors_of_a_user"].instance.scale.data.add_(1)
    with pytest.raises(MetricError, match="give all processes the same weights"):
        pickle.loads(content)


def test_unknown_extractor_names_the_nearest() -> None:
    with pytest.raises(MetricError, match=r"unknown feature extractor 'lite'.* Did you mean 'lite0'"):
        load_extractor("lite")


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("no_such_module_here:Net", "cannot be imported: No module named 'no_such_module_here'; install its package"),
        (":Net", "cannot be imported"),
        ("extractors_of_a_user:Mean", "needs 'Mean' in extractors_of_a_user, which has none. Did you mean 'Means'"),
        ("extractors_of_a_user:", "needs '' in extractors_of_a_user"),
        ("extractors_of_a_user:number", "must be an nn.Module, .* but it is int"),
        ("extractors_of_a_user:gives_text", "but it is a callable that returned str"),
        ("extractors_of_a_user:wants_more", "must be callable without arguments, but calling it failed"),
        ("extractors_of_a_user:Unfinished", "must set name and num_features and define digest and forward_rgb"),
    ],
)
def test_an_address_that_leads_nowhere_is_told(spec: str, rule: str) -> None:
    with pytest.raises(MetricError, match=rule):
        load_extractor(spec)
