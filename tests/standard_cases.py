"""Small standard sets on disk, in the published formats. Their checksums are not the published ones, so the lists of
checksums that torchvision compares with are replaced for the test."""

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets
from numpy.typing import NDArray
from PIL import Image

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def random_pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class _OldPickler(pickle.Pickler):
    """Writes dtypes as NumPy did when CIFAR was published, which NumPy since 2.4 warns about on reading."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        return NotImplemented


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch, *, per_batch: int = 24) -> NDArray[np.uint8]:
    """Five batches and a test batch of random images below the folder; the training pixels (N, 3, 32, 32)."""
    base = folder / "cifar-10-batches-py"
    base.mkdir(parents=True)
    reader = torchvision.datasets.CIFAR10
    pixels = random_pixels(6, per_batch, 3072)
    names = [name for name, _ in (*reader.train_list, *reader.test_list)]
    for batch, name in enumerate(names):
        content = {
            "batch_label": name,
            "labels": [(batch + index) % 10 for index in range(per_batch)],
            "data": pixels[batch],
            "filenames": [f"{name}_{index}.png" for index in range(per_batch)],
        }
        with (base / name).open("wb") as file:
            _OldPickler(file, protocol=2).dump(content)
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": CIFAR10_CLASSES, "num_vis": 3072}, protocol=2))
    monkeypatch.setattr(reader, "train_list", [[name, _md5(base / name)] for name in names[:5]])
    monkeypatch.setattr(reader, "test_list", [[name, _md5(base / name)] for name in names[5:]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": _md5(base / "batches.meta")})
    return pixels[:5].reshape(-1, 3, 32, 32)


def write_mnist(folder: Path, *, count: int = 120, name: str = "MNIST") -> NDArray[np.uint8]:
    """The four idx files below the folder; the training pixels (N, 28, 28). Nothing checks their md5."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    pixels = random_pixels(count, 28, 28)
    for part in ("train", "t10k"):
        images = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28) + pixels.tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, count) + bytes(index % 10 for index in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return pixels


def write_celeba(folder: Path, monkeypatch: pytest.MonkeyPatch, *, count: int = 130) -> list[str]:
    """JPEG files of 178 x 218 and the list of parts below the folder; the names of the training images.

    Each image is light noise within the centre 140 x 140, and black outside. Every thirteenth is validation or test.
    """
    images = folder / "celeba" / "img_align_celeba"
    images.mkdir(parents=True)
    rows = []
    for index in range(count):
        pixels = np.zeros((218, 178, 3), dtype=np.uint8)
        pixels[39:179, 19:159] = 200 + random_pixels(7, 7, 3, seed=index).repeat(20, 0).repeat(20, 1) // 5
        rows.append((f"{index + 1:06d}.jpg", 0 if index % 13 else 1 + index % 2))
        Image.fromarray(pixels).save(images / rows[-1][0], quality=95)
    partition = folder / "celeba" / "list_eval_partition.txt"
    partition.write_text("".join(f"{name} {part}\n" for name, part in rows))
    reader = torchvision.datasets.CelebA
    listed = [
        (file_id, _md5(partition) if name == partition.name else md5, name) for file_id, md5, name in reader.file_list
    ]
    monkeypatch.setattr(reader, "file_list", listed)
    return [name for name, part in rows if part == 0]


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
