"""The field's standard sets by name, as torchvision lays them down: found in a folder, or downloaded."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autopv.caching import cache_folder
from autopv.data.standard_download import download
from autopv.errors import DataError, nearest


@dataclass(frozen=True)
class StandardSet:
    """A set as a user names it: `cifar10`, or `cifar10:FOLDER` where it lies in a folder already."""

    name: str
    folder: Path | None = None

    @classmethod
    def parse(cls, source: str) -> "StandardSet | None":
        """The standard set that `source` names, or None where it names something else. Raises: DataError."""
        name, colon, folder = source.partition(":")
        if name not in standard_names():
            return None
        if colon and not folder:
            raise DataError(
                f"after the colon of {source!r} must stand the folder that holds {_files_text(name)}; without a colon "
                f"the set is downloaded into {str(download_folder())!r}"
            )
        return cls(name, Path(os.path.expanduser(folder)) if colon else None)

    def __str__(self) -> str:
        return self.name if self.folder is None else f"{self.name}:{self.folder}"

    def absolute(self) -> "StandardSet":
        """The same set, named so that it means the same from any folder."""
        return self if self.folder is None else StandardSet(self.name, self.folder.resolve())


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What torchvision wants below its `root`, and where it gets that from.

    files: relative paths, each with its md5 where torchvision knows one. images: a folder of image files beside them.
    fetched: what to get and unpack, for people who have to do it by hand.
    """

    files: Mapping[str, str | None]
    images: str | None = None
    fetched: str


def standard_names() -> tuple[str, ...]:
    """The names of the standard sets."""
    return tuple(_CLASSES)


def download_folder() -> Path:
    """Where sets are downloaded to: torchvision's `root` for those that are named without a folder."""
    return cache_folder() / "datasets"


def torchvision_class(name: str) -> Any:
    """The class of `torchvision.datasets` that reads the set."""
    # Takes seconds to import, so only where it is asked for.
    import torchvision.datasets

    return getattr(torchvision.datasets, _CLASSES[name][0])


def find_standard(chosen: StandardSet) -> Path:
    """The folder in which the set's files lie, of the right md5 where one is known; downloaded where none was named.

    Raises: DataError that says which files go where: one is missing or damaged, or the download failed.
    """
    reader = torchvision_class(chosen.name)
    layout = _CLASSES[chosen.name][1](reader)
    folder = download_folder() if chosen.folder is None else chosen.folder
    lack = _lack(layout, folder)
    if lack is None:
        return folder
    found = f"{_rule(chosen.name)}, but {str(folder)!r} {lack.what}"
    if chosen.folder is not None:
        raise DataError(f"{found}; {_remedy(layout, folder)}")
    if not lack.is_fetched:
        raise DataError(f"{found}; remove it there, and run again to fetch it")
    failure = download(reader, folder)
    if failure is not None:
        beside = f", or write ./{chosen.name} for the folder that lies here" if Path(chosen.name).is_dir() else ""
        raise DataError(
            f"{found}, and downloading failed: {failure}. Get and unpack {layout.fetched}; then name the folder that "
            f"holds this as {chosen.name}:FOLDER{beside}"
        )
    return folder


def damaged(chosen: StandardSet, folder: Path, reason: str) -> DataError:
    """The error for a set whose files cannot be read though they are there."""
    layout = _CLASSES[chosen.name][1](torchvision_class(chosen.name))
    return DataError(f"{_rule(chosen.name)}, but in {str(folder)!r} {reason}; {_remedy(layout, folder)}")


def unknown_standard(source: str) -> DataError | None:
    """The error for `NAME:FOLDER` with a name that is no standard set; None where `source` is no such thing."""
    name, colon, _ = source.partition(":")
    if not colon or not name or os.sep in name:
        return None
    return DataError(
        f"before the colon of {source!r} must stand the name of a standard set, but {name!r} is none."
        f"{nearest(name, standard_names())}"
    )


def _cifar(reader: Any) -> _Layout:
    listed = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    return _Layout(files={f"{reader.base_folder}/{file}": md5 for file, md5 in listed}, fetched=reader.url)


def _mnist(reader: Any) -> _Layout:
    archives = [file for file, _ in reader.resources]
    return _Layout(
        files={f"{reader.__name__}/raw/{Path(file).stem}": None for file in archives},
        fetched=f"{', '.join(archives)} from {reader.mirrors[0]}",
    )


def _celeba(reader: Any) -> _Layout:
    # torchvision wants four more text files, which autopv has no use for.
    (md5,) = (md5 for _, md5, file in reader.file_list if file == CELEBA_PARTITION)
    return _Layout(
        files={f"{reader.base_folder}/{CELEBA_PARTITION}": md5},
        images=f"{reader.base_folder}/{CELEBA_IMAGES}",
        fetched=f"{CELEBA_IMAGES}.zip and {CELEBA_PARTITION} from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    )


CELEBA_PARTITION = "list_eval_partition.txt"
CELEBA_IMAGES = "img_align_celeba"
_CLASSES: dict[str, tuple[str, Callable[[Any], _Layout]]] = {
    "cifar10": ("CIFAR10", _cifar),
    "cifar100": ("CIFAR100", _cifar),
    "mnist": ("MNIST", _mnist),
    "fashionmnist": ("FashionMNIST", _mnist),
    "kmnist": ("KMNIST", _mnist),
    "celeba": ("CelebA", _celeba),
}


@dataclass(frozen=True)
class _Lack:
    """What is wrong with a folder, and whether a download mends it."""

    what: str
    is_fetched: bool = True


def _lack(layout: _Layout, folder: Path) -> _Lack | None:
    from torchvision.datasets.utils import check_integrity

    wanted = [*layout.files, *([] if layout.images is None else [layout.images])]
    missing = [place for place in wanted if not (folder / place).exists()]
    if missing:
        return _Lack(f"lacks {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    for place, md5 in layout.files.items():
        if md5 is None and not _is_whole_idx(folder / place):
            # torchvision takes a file that is there for a good one.
            return _Lack(f"holds a damaged {place!r} (it is not as long as it says)", is_fetched=False)
        if not check_integrity(folder / place, md5):
            return _Lack(f"holds a damaged {place!r} (its md5 is not the published one)")
    return None


def _is_whole_idx(path: Path) -> bool:
    """Whether a file of MNIST's format is as long as its header says; torchvision knows the md5 of archives alone."""
    with path.open("rb") as file:
        header = file.read(4)
        num_sides = header[3] if len(header) == 4 else 0
        sides = file.read(4 * num_sides)
    values = math.prod(int.from_bytes(sides[place : place + 4], "big") for place in range(0, len(sides), 4))
    return 0 < 4 * num_sides == len(sides) and path.stat().st_size == 4 + len(sides) + values


def _rule(name: str) -> str:
    return f"the folder of {name} must hold {_files_text(name)}"


def _files_text(name: str) -> str:
    """The files that a set takes, such as `MNIST/raw/{a, b}`."""
    layout = _CLASSES[name][1](torchvision_class(name))
    folder = str(Path(next(iter(layout.files))).parent)
    files = [Path(place).name for place in layout.files]
    if layout.images is not None:
        files.append(f"{Path(layout.images).name}/*.jpg")
    return f"{folder}/{{{', '.join(files)}}}" if len(files) > 1 else f"{folder}/{files[0]}"


def _remedy(layout: _Layout, folder: Path) -> str:
    # One folder too deep is the likeliest mistake.
    top = Path(next(iter(layout.files))).parts[0]
    if folder.name == top and folder.is_dir():
        return f"name the folder that holds {top!r}: {str(folder.parent)!r}"
    return f"get and unpack {layout.fetched}"
