"""Images of a setup, held or mapped: a training cannot tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_cases import SIZE_PX, same_state

from autopv.data.filed import FiledTensor
from autopv.training import material as material_module
from autopv.training.material import Material, Setup
from autopv.training.trainer import Trainer


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """120 random images with masks, in a file; the cache folder is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (120, SIZE_PX, SIZE_PX), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, masks=images > 200)
    return tmp_path / "data.npz"


def load(data: Path) -> Material:
    return Material.load(Setup(data=str(data), size_px=SIZE_PX))


def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autopv.data.memory.MEMORY_SHARE", 0.0)


def test_every_split_is_the_same_mapped_and_held(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load(data)
    parts = [(held.images(split), held.masks(split)) for split in ("train", "search", "final")]
    no_memory(monkeypatch)
    mapped = load(data)
    assert mapped.splits.digest == held.splits.digest
    for (images, masks), split in zip(parts, ("train", "search", "final"), strict=True):
        assert masks is not None
        assert torch.equal(mapped.images(split), images)
        found = mapped.masks(split)
        assert found is not None
        assert found.dtype == torch.bool
        assert torch.equal(found, masks)
    assert [len(images) for images, _ in parts] == [72, 24, 24]


def test_a_training_on_mapped_images_is_the_same_to_the_bit(
    data: Path, make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train() -> Trainer:
        material = load(data)
        trainer: Trainer = make_trainer(steps=4, images=material.images("train"), masks=material.masks("train"))
        trainer.train_until(1.0)
        return trainer

    held = train()
    no_memory(monkeypatch)
    mapped = train()
    assert mapped.data_digest == held.data_digest
    assert same_state(mapped, held)


def test_many_images_go_to_workers_as_a_file_few_as_they_are(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    material = load(data)
    few, few_masks = material.for_workers("train")
    assert isinstance(few, torch.Tensor)
    assert isinstance(few_masks, torch.Tensor)
    monkeypatch.setattr(material_module, "SENT_BYTES", 10)
    many, many_masks = material.for_workers("train")
    assert isinstance(many, FiledTensor)
    assert isinstance(many_masks, FiledTensor)
    assert torch.equal(many.open(), few)
    assert torch.equal(many_masks.open(), few_masks)


def test_workers_get_copies_where_the_cache_cannot_be_written(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = load(data)
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    monkeypatch.setattr(material_module, "SENT_BYTES", 10)
    images, _ = material.for_workers("train")
    assert isinstance(images, torch.Tensor)
