from pathlib import Path

import pytest

from autopv.evaluation import feature_store


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 6 images, read 3 at a time, so that few images make several."""
    monkeypatch.setattr(feature_store, "SHARD_IMAGES", 6)
    monkeypatch.setattr(feature_store, "_READ_IMAGES", 3)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
