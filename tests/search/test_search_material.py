from pathlib import Path

import pytest

from autopv.search.material import absolute_source


def test_sources_mean_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images", "elpv", "mnist"):
        Path(name).mkdir()
    assert absolute_source("images") == str(tmp_path / "images")
    assert absolute_source("./elpv") == str(tmp_path / "elpv")
    assert absolute_source("./mnist") == str(tmp_path / "mnist")
    assert absolute_source("mnist:images") == f"mnist:{tmp_path / 'images'}"


def test_the_name_of_a_set_stays_though_a_folder_has_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("elpv", "cifar10"):
        Path(name).mkdir()
        assert absolute_source(name) == name
