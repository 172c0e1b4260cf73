"""Families of installed packages: found by name without being imported; what only looks like one is refused."""

import sys
from pathlib import Path

import pytest

from autopv.errors import ModelError
from autopv.models import base
from autopv.models.base import build_model, check_installed, default_size_px, model_names, model_package, preset_names
from autopv.models.hvae import Hvae

SHIPPED = ("diffusion", "hvae", "refine", "vq")
MODULE = """
from autopv.models.base import VideoGenerator, register_model
from autopv.models.hvae import Hvae

class Theirs(Hvae):
    preset_sizes_px = {"tiny": (8, 16)}

@register_model("registered-too")
class Registered(Hvae):
    pass

ByAnotherName = Registered

class Unfinished(VideoGenerator):
    preset_sizes_px = {"tiny": (8,)}

class NoPresets(Hvae):
    preset_sizes_px = {}

class NoSizes(Hvae):
    preset_sizes_px = {"tiny": 16}

number = 5
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, with one module in it; what it registers is forgotten afterwards."""
    (tmp_path / "models_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "models_of_a_user", raising=False)
    model_names()  # autopv's own have to be registered before the copy is made
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    return tmp_path


def install(folder: Path, entries: str, *, package: str = "their-models") -> None:
    """Makes the folder hold an installed package with these entry points."""
    metadata = folder / f"{package.replace('-', '_')}-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(f"[autopv.models]\n{entries}\n")


def test_an_installed_family_is_built_by_its_name(folder: Path) -> None:
    assert model_names() == SHIPPED
    install(folder, "theirs = models_of_a_user:Theirs")
    assert model_names() == ("diffusion", "hvae", "refine", "theirs", "vq")
    model = build_model("theirs", preset="tiny", size_px=8, channels=1, num_frames=2, seed=0)
    assert (type(model).__name__, type(model).__module__) == ("Theirs", "models_of_a_user")
    assert isinstance(model, Hvae)
    assert preset_names("theirs") == ("tiny",)
    assert default_size_px("theirs", "tiny") == 8


def test_its_package_is_told_with_its_version(folder: Path) -> None:
    install(folder, "theirs = models_of_a_user:Theirs")
    assert model_package("theirs") == "their-models 1.2"
    assert model_package("hvae") is None


def test_a_package_is_imported_only_when_its_name_is_asked_for(folder: Path) -> None:
    install(folder, "broken = models_of_a_user:Theirs")
    (folder / "models_of_a_user.py").write_text("raise RuntimeError('no such device')")
    assert "broken" in model_names()
    assert isinstance(build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=1, seed=0), Hvae)
    assert "models_of_a_user" not in sys.modules
    with pytest.raises(ModelError, match=r"'broken' of their-models 1\.2 .* failed: RuntimeError: no such device; `"):
        preset_names("broken")


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("no_such_module_here:Net", "failed: ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("models_of_a_user:Thiers", "failed: AttributeError: .* has no attribute 'Thiers'"),
        ("models_of_a_user:number", "be a subclass of autopv.models.base.VideoGenerator, but it is of type int"),
        ("pathlib:Path", "be a subclass of .*, but it is the class Path"),
        (
            "models_of_a_user:Unfinished",
            "define every method that it promises, but Unfinished lacks draw_noise, flops, loss_terms, sample_frames",
        ),
        ("models_of_a_user:NoPresets", r'name its presets with their sizes, such as {"tiny".* preset_sizes_px is {}'),
        ("models_of_a_user:NoSizes", r"preset_sizes_px is {'tiny': 16}"),
    ],
)
def test_what_is_no_family_is_told_with_its_package(folder: Path, address: str, rule: str) -> None:
    install(folder, f"theirs = {address}")
    with pytest.raises(ModelError, match=rf"the model 'theirs' of their-models 1\.2 must .*{rule}"):
        build_model("theirs", preset="tiny", size_px=8, channels=1, num_frames=1, seed=0)


def test_a_name_of_autopv_cannot_be_taken_over(folder: Path) -> None:
    install(folder, "hvae = models_of_a_user:Theirs")
    assert model_names() == SHIPPED
    rule = r"'hvae' stands for models_of_a_user:Theirs \(their-models 1\.2\) and for autopv.models.hvae:Hvae"
    with pytest.raises(ModelError, match=rule):
        preset_names("hvae")
    assert preset_names("refine")


def test_a_name_that_two_packages_offer_is_refused(folder: Path) -> None:
    install(folder, "theirs = models_of_a_user:Theirs")
    install(folder, "theirs = others:Theirs", package="others")
    with pytest.raises(ModelError, match=r"models_of_a_user:Theirs \(their-models 1\.2\) and for others:Theirs"):
        preset_names("theirs")


def test_one_class_offered_twice_is_one_family(folder: Path) -> None:
    install(folder, "theirs = models_of_a_user:Theirs")
    install(folder, "theirs = models_of_a_user:Theirs", package="under-its-old-name")
    assert preset_names("theirs") == ("tiny",)
    install(folder, "registered-too = models_of_a_user:ByAnotherName", package="registers-as-well")
    for _ in range(2):  # before and after its module has registered it
        assert preset_names("registered-too") == ("tiny", "small", "base")


def test_an_unknown_name_is_answered_with_the_nearest_and_with_how_others_get_known(folder: Path) -> None:
    install(folder, "theirs = models_of_a_user:Theirs")
    with pytest.raises(ModelError, match=r"unknown model 'thiers'. Did you mean 'theirs'.* once that package is insta"):
        preset_names("thiers")


def test_what_needs_a_family_that_is_not_installed_says_what_to_install(folder: Path) -> None:
    rule = r"the run of yesterday needs the model family 'theirs', which is not installed here .*: install {}$"
    with pytest.raises(ModelError, match=rule.format(r"the package their-models 1\.1")):
        check_installed("theirs", package="their-models 1.1", where="the run of yesterday")
    with pytest.raises(ModelError, match=rule.format("its package")):
        check_installed("theirs", package=None, where="the run of yesterday")
    install(folder, "theirs = models_of_a_user:Theirs")
    check_installed("theirs", package="their-models 1.1", where="the run of yesterday")
