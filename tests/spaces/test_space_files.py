"""Search-space files are read strictly: every mistake is named with its file and key."""

import re
import time
from pathlib import Path

import pytest

from autopv.errors import SpaceError
from autopv.spaces import Space
from autopv.spaces.toml_io import shipped_spaces

VALID = """
format_version = 1
num_frames = { int = [2, 8] }
markov_order = { choice = ["chain", "star", "any"] }
randomness = { choice = ["fresh", "shared"] }
frame_loss_weight = { float = [0.003, 1.0], log = true }
frame_loss_until = { choice = [0.25, 0.5, 1.0] }
num_layers = { int = [1, 3] }
curve = { choice = ["linear", "cosine", "power"] }
[ops.gaussian_blur]
magnitude.sigma = { float = [0.01, 0.2], log = true }
[ops.erase]
magnitude.area = { float = [0.05, 0.6] }
"""


def test_the_documented_example_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(VALID)
    space = Space.load(tmp_path / "mine.toml")
    assert space.name == "mine"
    assert [op for op, _ in space.magnitudes] == ["gaussian_blur", "erase"]
    assert Space.load(str(tmp_path / "mine.toml")) == space


def test_every_shipped_space_is_read() -> None:
    assert set(shipped_spaces()) == {"stage1_noise", "stage2_expressive", "stage3_defect"}
    for name in shipped_spaces():
        assert Space.load(name).name == name


def test_an_unknown_name_is_met_with_the_nearest_one() -> None:
    with pytest.raises(SpaceError, match=r"Did you mean 'stage1_noise'.*path of a \.toml file"):
        Space.load("stage1_noises")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", str(tmp_path / "none"), tmp_path):
        with pytest.raises(SpaceError, match="no file of that name"):
            Space.load(path)
    with pytest.raises(SpaceError, match="cannot be read: File name too long"):
        Space.load("x" * 5000 + ".toml")


BAD = {
    "unknown key": ("curve =", "curves =", "unknown key 'curves'. Did you mean 'curve'"),
    "missing key": ('randomness = { choice = ["fresh", "shared"] }\n', "", "lacks the key 'randomness'"),
    "newer version": ("format_version = 1", "format_version = 2\nnovelty = 1", "format_version 2 is newer"),
    "bool version": ("format_version = 1", "format_version = true", "format_version must be 1, got True"),
    "unknown op": ("ops.erase", "ops.erasse", r"ops.erasse: there is no such op. Did you mean 'erase'"),
    "op without magnitude": ("magnitude.area", "area", "ops.erase has an unknown key 'area'"),
    "another magnitude": ("magnitude.area", "magnitude.sigma", "ops.erase.magnitude has an unknown key 'sigma'"),
    "bounds beyond the op's": (
        "[0.05, 0.6]",
        "[0.05, 1.6]",
        r"ops.erase.magnitude.area.float must be a number in .* 1.6",
    ),
    "bounds below the op's": ("[0.05, 0.6]", "[0.0, 0.6]", r"ops.erase.magnitude.area.float must be a number in"),
    "bounds reversed": ("[0.05, 0.6]", "[0.6, 0.05]", "low <= high must hold .* low=0.6, high=0.05"),
    "one bound": ("[0.05, 0.6]", "[0.05]", r"magnitude.area.float must be \[low, high\]"),
    "nan bound": ("[0.05, 0.6]", "[nan, 0.6]", "magnitude.area.float must be a number .* got nan"),
    "infinite bound": ("[0.05, 0.6]", "[0.05, inf]", "magnitude.area.float must be a number .* got inf"),
    "bool bound": ("[0.05, 0.6]", "[true, 0.6]", "magnitude.area.float must be a number .* got True"),
    "text bound": ("[0.05, 0.6]", '["0.05", 0.6]', "magnitude.area.float must be a number .* got '0.05'"),
    "log not a bool": ("log = true }\n[ops.erase]", "log = 1 }\n[ops.erase]", "sigma.log must be true or false, got 1"),
    "range not a table": ("{ int = [2, 8] }", "5", "num_frames must be an object"),
    "wrong kind of range": ("{ int = [2, 8] }", "{ float = [2.0, 8.0] }", "num_frames has an unknown key 'float'"),
    "float for int": ("{ int = [2, 8] }", "{ int = [2.0, 8] }", "num_frames.int must be a whole number .* got 2.0"),
    "one frame": ("{ int = [2, 8] }", "{ int = [1, 8] }", r"num_frames.int must be a whole number in \[2, 64\], got 1"),
    "ints reversed": ("{ int = [2, 8] }", "{ int = [8, 2] }", "num_frames.int: low <= high must hold"),
    "unknown order": ('"star"', '"stars"', "markov_order.choice .* Did you mean 'star'"),
    "unknown curve": ('"cosine"', '"cosin"', "curve.choice .* Did you mean 'cosine'"),
    "unknown randomness": ('"shared"', '"share"', "randomness.choice .* Did you mean 'shared'"),
    "no options": ('["fresh", "shared"]', "[]", "randomness.choice must be a list of at least one"),
    "options twice": ('["fresh", "shared"]', '["fresh", "fresh"]', "must not state an option twice"),
    "options not a list": ('["fresh", "shared"]', '"fresh"', "randomness.choice must be a list"),
    "weight not positive": ("[0.003, 1.0]", "[0.0, 1.0]", "frame_loss_weight.float must be a number"),
    "until beyond one": ("[0.25, 0.5, 1.0]", "[0.25, 1.5]", "frame_loss_until.choice must be a number .* got 1.5"),
    "no layers": ("{ int = [1, 3] }", "{ int = [0, 3] }", "num_layers.int must be a whole number"),
    "too many layers": ("{ int = [1, 3] }", "{ int = [1, 17] }", "num_layers.int must be a whole number"),
    "same key twice": ("num_layers = { int = [1, 3] }", "num_layers = { int = [1, 3] }\nnum_layers = 3", "not TOML: "),
    "not toml": ("format_version = 1", "format_version: 1", "not TOML: .* line 2"),
    "deep": ("format_version = 1", "a = " + "[" * 100_000, "not TOML|nested deeper"),
    "huge number": ("format_version = 1", "format_version = " + "9" * 9999, "more digits|not TOML"),
    "huge": ("format_version = 1", "#" * (2 << 20), "at most 1024 KiB"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_is_named_with_its_file_and_key(name: str, tmp_path: Path) -> None:
    old, new, message = BAD[name]
    assert old in VALID
    path = tmp_path / "mine.toml"
    path.write_text(VALID.replace(old, new, 1))
    start = time.perf_counter()
    with pytest.raises(SpaceError, match=message) as caught:
        Space.load(path)
    assert re.match(re.escape(str(path)), str(caught.value))
    assert time.perf_counter() - start < 2


def test_no_ops_at_all_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(VALID[: VALID.index("[ops")] + "ops = {}\n")
    with pytest.raises(SpaceError, match=r"ops must hold at least one op\. Known: brightness, "):
        Space.load(tmp_path / "mine.toml")


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"# \xff\n")
    with pytest.raises(SpaceError, match="UTF-8 text, but byte 2 is not"):
        Space.load(tmp_path / "mine.toml")
