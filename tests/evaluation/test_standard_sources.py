"""Standard sets in an evaluation: the images that a training sees, and what a model was trained on told apart."""

import itertools
from pathlib import Path

import pytest
import torch
from standard_cases import write_celeba, write_cifar10, write_mnist

from autopv.data.images import load_images
from autopv.data.splits import split_images
from autopv.errors import DataError
from autopv.evaluation.image_source import ImageSource
from autopv.evaluation.opening import open_sets
from autopv.evaluation.sources import open_source
from autopv.models.base import build_model
from autopv.policy.policy import Policy
from autopv.training.checkpoint import save_checkpoint
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


def read(source: ImageSource, *, size_px: int, channels: int, cut: int = 5) -> torch.Tensor:
    bounds = itertools.pairwise([0, cut, len(source)])
    return torch.cat([source.read(*pair, size_px=size_px, channels=channels).images_NCHW for pair in bounds])


@pytest.mark.parametrize(
    ("name", "channels", "sizes_px", "side_px"),
    [("cifar10", 3, (32, 16), 32), ("mnist", 1, (32, 28, 16), 32), ("celeba", 3, (64, 32), 140)],
)
def test_a_standard_set_is_what_a_training_sees(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    channels: int,
    sizes_px: tuple[int, ...],
    side_px: int,
) -> None:
    write_cifar10(tmp_path, monkeypatch, per_batch=2)
    write_mnist(tmp_path, count=10)
    write_celeba(tmp_path, monkeypatch, count=10)
    source = open_source(f"{name}:{tmp_path}", role="A", num_samples=1)
    assert source.kind == "standard"
    assert source.side_px == side_px
    for size_px in sizes_px:
        image_set = load_images(f"{name}:{tmp_path}", size_px=size_px)
        assert source.names == image_set.names
        assert torch.equal(read(source, size_px=size_px, channels=channels), image_set.images_NCHW)
    assert (source.classes is None) == (name == "celeba")


def test_the_cropped_faces_are_not_taken_for_the_whole_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_celeba(tmp_path, monkeypatch, count=10)
    faces = open_source(f"celeba:{tmp_path}", role="A", num_samples=1)
    whole = open_source(str(tmp_path / "celeba" / "img_align_celeba"), role="A", num_samples=1)
    # The first image is none of the training part.
    assert faces.names[0] == whole.names[1]
    assert faces.fingerprint(0, 1) != whole.fingerprint(1, 2)


def test_a_missing_set_is_an_error_here_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lacks 'MNIST/raw/train-images-idx3-ubyte'"):
        open_source(f"mnist:{tmp_path}", role="A", num_samples=1)
    with pytest.raises(DataError, match="Did you mean 'mnist'"):
        open_source(f"mnits:{tmp_path}", role="A", num_samples=1)


@pytest.mark.parametrize("memory_share", [0.25, 0.0])
def test_what_a_model_was_trained_on_is_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_share: float
) -> None:
    write_mnist(tmp_path, count=120)
    image_set = load_images(f"mnist:{tmp_path}", size_px=8)
    splits = split_images(image_set, seed=0)
    model = build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=1, seed=0)
    trainer = Trainer(
        "hvae",
        preset="tiny",
        size_px=8,
        channels=1,
        policy=Policy.image_only(),
        images_NCHW=image_set.images_NCHW[splits.train],
        plan=TrainingPlan(total_flops=100 * model.flops_per_image(1), batch_size=4),
        seed=0,
    )
    save_checkpoint(trainer, tmp_path / "model")
    monkeypatch.setattr("autopv.data.memory.MEMORY_SHARE", memory_share)
    sets = open_sets(f"mnist:{tmp_path}", (str(tmp_path / "model"),))
    assert len(sets.reference) == len(splits.final)
    assert sets.train is not None
    assert torch.equal(read(sets.train, size_px=8, channels=1), image_set.images_NCHW[splits.train])
