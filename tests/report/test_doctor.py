from pathlib import Path

import pytest

from autopv.metrics import inception
from autopv.report.doctor import doctor_lines


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(inception.WEIGHTS_VARIABLE, raising=False)
    return tmp_path / "cache"


def line_with(text: str) -> str:
    (line,) = [line for line in doctor_lines() if text in line]
    return line


def test_missing_inception_weights_are_told_and_not_downloaded(own_cache: Path) -> None:
    line = line_with("extractor weights inception, for the metric fid")
    assert line.startswith("missing ")
    assert str(own_cache / "autopv" / "weights" / "inception-2015-12-05.pt") in line
    assert "$AUTOPV_INCEPTION_WEIGHTS" in line
    assert not own_cache.exists()


def test_damaged_inception_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pt").write_bytes(b"cut short")
    monkeypatch.setenv(inception.WEIGHTS_VARIABLE, str(tmp_path / "weights.pt"))
    assert "must have 95,607,719 bytes" in line_with("extractor weights inception")


def test_extractors_of_installed_packages_are_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[autopv.extractors]\nbroken = no_such_module_of_theirs:Net\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = line_with("extractor broken (no_such_module_of_theirs:Net)")
    assert line.startswith("missing ")
    assert "cannot be imported" in line


def test_models_are_told_with_their_packages_and_broken_ones_with_their_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[autopv.models]\nbroken = no_such_module_of_theirs:Net\ncopy = autopv.models.hvae:Hvae\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lines = [line for line in doctor_lines() if " model " in line]
    shipped = [f"ok       model {name}" for name in ("diffusion", "hvae", "refine", "vq")]
    assert lines[1:] == ["ok       model copy, of theirs 1.0", *shipped]
    assert lines[0].startswith("missing  model broken, of theirs 1.0: ")
    assert "No module named" in lines[0]


def test_how_many_workers_can_train_together_is_told() -> None:
    assert line_with("train --num-workers up to").startswith("ok ")
