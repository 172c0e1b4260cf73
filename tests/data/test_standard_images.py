from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from standard_cases import CIFAR10_CLASSES, write_celeba, write_cifar10, write_mnist

from autopv.data import folder as folder_module
from autopv.data.images import ImageSet, load_images
from autopv.data.splits import split_images
from autopv.errors import DataError


def load(source: str, *, size_px: int = 32) -> ImageSet:
    return load_images(source, size_px=size_px)


def test_cifar10_is_the_training_batches_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_NCHW = write_cifar10(tmp_path, monkeypatch)
    image_set = load(f"cifar10:{tmp_path}")
    assert np.array_equal(image_set.images_NCHW.numpy(), pixels_NCHW)
    assert image_set.class_names == tuple(CIFAR10_CLASSES)
    assert image_set.labels is not None
    assert image_set.labels[:3] == (0, 1, 2)
    assert image_set.labels[24:26] == (1, 2)
    assert image_set.names[:2] == ("000000", "000001")
    assert image_set.source == f"cifar10:{tmp_path}"


def test_a_set_in_the_download_folder_needs_no_folder_and_is_the_same(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(own_cache / "datasets", monkeypatch)
    named = load(f"cifar10:{own_cache / 'datasets'}")
    assert load("cifar10").digest == named.digest
    splits = split_images(named, seed=0)
    assert [len(splits.train), len(splits.search), len(splits.final)] == [72, 24, 24]


def test_cifar10_is_resized_like_every_other_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels_NCHW = write_cifar10(tmp_path, monkeypatch, per_batch=2)
    np.save(tmp_path / "same.npy", pixels_NCHW)
    images_NCHW = load(f"cifar10:{tmp_path}", size_px=16).images_NCHW
    assert torch.equal(images_NCHW, load(str(tmp_path / "same.npy"), size_px=16).images_NCHW)


@pytest.mark.parametrize(("name", "class_name"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
def test_mnist_is_padded_with_black_to_32_px(tmp_path: Path, name: str, class_name: str) -> None:
    pixels_NHW = write_mnist(tmp_path, name=class_name)
    image_set = load(f"{name}:{tmp_path}")
    assert image_set.images_NCHW.shape == (120, 1, 32, 32)
    assert np.array_equal(image_set.images_NCHW[:, 0, 2:-2, 2:-2].numpy(), pixels_NHW)
    assert image_set.images_NCHW.sum(dtype=torch.int64) == int(pixels_NHW.sum(dtype=np.int64))
    assert len(image_set.class_names) == 10


def test_mnist_at_its_own_size_has_no_border(tmp_path: Path) -> None:
    pixels_NHW = write_mnist(tmp_path)
    assert np.array_equal(load(f"mnist:{tmp_path}", size_px=28).images_NCHW[:, 0].numpy(), pixels_NHW)


def test_celeba_is_the_centre_140_px_of_its_training_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_celeba(tmp_path, monkeypatch)
    image_set = load(f"celeba:{tmp_path}", size_px=64)
    assert image_set.names == tuple(names)
    assert image_set.labels is None
    assert image_set.images_NCHW.shape == (len(names), 3, 64, 64)
    folder = tmp_path / "celeba" / "img_align_celeba"
    for name, image_CHW in list(zip(names, image_set.images_NCHW, strict=True))[::40]:
        with Image.open(folder / name) as image:
            # As torchvision's CenterCrop(140) takes it from 178 x 218.
            square = image.crop((19, 39, 159, 179)).resize((64, 64), Image.Resampling.LANCZOS)
        assert np.array_equal(image_CHW.permute(1, 2, 0).numpy(), np.asarray(square))
    assert image_set.images_NCHW.min() > 150
    assert load(str(folder), size_px=64).images_NCHW[:, 1, 0].max() < 50


def test_celeba_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_CACHE_FROM_IMAGES", 2)
    write_celeba(tmp_path, monkeypatch, count=5)
    digest = load(f"celeba:{tmp_path}", size_px=16).digest
    # The whole square is another picture of the same files, and another entry.
    whole = load(str(tmp_path / "celeba" / "img_align_celeba"), size_px=16)
    assert whole.images_NCHW[:, :, 0].max() < 50
    monkeypatch.delattr(folder_module, "decode_image")
    assert load(f"celeba:{tmp_path}", size_px=16).digest == digest


def test_celeba_with_a_missing_or_broken_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_celeba(tmp_path, monkeypatch, count=5)
    path = tmp_path / "celeba" / "img_align_celeba" / names[1]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=rf"1 training images are broken, such as '{names[1]}': .*get and unpack"):
        load(f"celeba:{tmp_path}")
    path.unlink()
    with pytest.raises(DataError, match=rf"1 training images are missing, such as '{names[1]}'"):
        load(f"celeba:{tmp_path}")


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path, count=4)
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    with pytest.raises(DataError, match="there are 4 images and 3 labels"):
        load(f"mnist:{tmp_path}")
