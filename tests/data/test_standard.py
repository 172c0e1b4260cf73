import os
import tarfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torchvision.datasets
from standard_cases import write_celeba, write_cifar10, write_mnist

from autopv.data.images import load_images
from autopv.data.standard import StandardSet, download_folder, find_standard
from autopv.errors import DataError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server can be reached."""

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def find(source: str) -> Path:
    chosen = StandardSet.parse(source)
    assert chosen is not None
    return find_standard(chosen)


def test_a_name_may_be_followed_by_its_folder() -> None:
    assert StandardSet.parse("mnist") == StandardSet("mnist")
    assert StandardSet.parse("mnist:/some/where:else") == StandardSet("mnist", Path("/some/where:else"))
    assert StandardSet.parse("mnist:~/sets") == StandardSet("mnist", Path.home() / "sets")
    assert StandardSet.parse("./mnist") is None
    assert StandardSet.parse("elpv") is None


def test_an_absolute_name_means_the_same_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = StandardSet.parse("celeba:sets")
    assert chosen is not None
    assert str(chosen.absolute()) == f"celeba:{tmp_path / 'sets'}"
    assert str(StandardSet("celeba").absolute()) == "celeba"


def test_a_folder_must_follow_the_colon() -> None:
    with pytest.raises(DataError, match=r"'cifar10:' must stand the folder that holds cifar-10-batches-py/\{data_ba"):
        load_images("cifar10:", size_px=32)


def test_a_misspelt_name_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        load_images("cifr10:/data", size_px=32)
    with pytest.raises(DataError, match="Did you mean 'celeba'"):
        load_images("celebA", size_px=32)


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine:1").mkdir()
    with pytest.raises(DataError, match="holds no files at all"):
        load_images("mine:1", size_px=32)


@pytest.mark.parametrize(
    ("name", "missing", "address"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1' and 6 more", "cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python/train' and 2 more", "cs.toronto.edu/~kriz/cifar-100-python.tar.gz"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte' and 3 more", "train-images-idx3-ubyte.gz, .* from https://"),
        ("fashionmnist", "FashionMNIST/raw/train-images-idx3-ubyte' and 3", "http://fashion-mnist"),
        ("kmnist", "KMNIST/raw/train-images-idx3-ubyte' and 3 more", "http://codh.rois.ac.jp/kmnist"),
        ("celeba", "celeba/list_eval_partition.txt' and 1 more", "img_align_celeba.zip and list_eval_partition.txt"),
    ],
)
def test_a_folder_without_the_files_says_which_go_where(tmp_path: Path, name: str, missing: str, address: str) -> None:
    with pytest.raises(DataError, match=rf"lacks '{missing}.*{address}"):
        find(f"{name}:{tmp_path}")
    assert os.listdir(tmp_path) == []


def test_one_folder_too_deep_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch, per_batch=1)
    with pytest.raises(DataError, match=rf"name the folder that holds 'cifar-10-batches-py': '{tmp_path}'"):
        find(f"cifar10:{tmp_path / 'cifar-10-batches-py'}")


def test_a_changed_file_is_refused_by_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path, monkeypatch, per_batch=1)
    write_celeba(tmp_path, monkeypatch, count=2)
    for name, path in (("cifar10", "cifar-10-batches-py/data_batch_4"), ("celeba", "celeba/list_eval_partition.txt")):
        find(f"{name}:{tmp_path}")
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:-1])
        with pytest.raises(DataError, match=rf"holds a damaged '{path}' \(its md5 is not the published one\)"):
            find(f"{name}:{tmp_path}")


@pytest.mark.parametrize("length", [0, 3, 10, 2000])
def test_a_truncated_idx_file_is_refused(tmp_path: Path, length: int) -> None:
    write_mnist(tmp_path, count=4)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"holds a damaged 'MNIST/raw/train-images-idx3-ubyte'"):
        find(f"mnist:{tmp_path}")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_download_without_network_says_what_to_do_and_leaves_nothing(own_cache: Path, name: str) -> None:
    with pytest.raises(
        DataError, match=r"lacks .*downloading failed: .*Name or service not known.*Get and unpack .*http"
    ):
        find(name)
    assert not (own_cache / "datasets").exists()


@pytest.mark.usefixtures("offline")
def test_a_folder_of_the_same_name_is_pointed_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cifar10").mkdir()
    with pytest.raises(DataError, match=r"or write \./cifar10 for the folder that lies here"):
        find("cifar10")


@pytest.mark.usefixtures("offline")
def test_an_archive_in_the_download_folder_is_unpacked_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch, per_batch=1)
    download_folder().mkdir(parents=True)
    archive = download_folder() / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    # The archive of this test has no published md5.
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", None)
    assert find("cifar10") == download_folder()


@pytest.mark.usefixtures("offline")
def test_a_damaged_file_in_the_download_folder_is_named(own_cache: Path) -> None:
    write_mnist(own_cache / "datasets", count=4)
    path = own_cache / "datasets" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"holds a damaged 'MNIST/raw/t10k-labels-idx1-ubyte' .*; remove it there"):
        find("mnist")
