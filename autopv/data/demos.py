"""Named demo sets: real images that come as a package, so that nothing has to be downloaded."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from autopv.data.folder import decode_folder
from autopv.data.loaded import Loaded
from autopv.data.textures import NATIVE_PX, load_textures
from autopv.errors import DataError

_ELPV_PACKAGE = "elpv-dataset"


def demo_names() -> tuple[str, ...]:
    """The names that `load_demo` knows."""
    return tuple(_LOADERS)


def load_demo(name: str, *, size_px: int) -> Loaded:
    """The images of a set that `demo_names` lists, with classes, and masks and groups where it has any."""
    return _LOADERS[name](size_px=size_px)


def demo_files(name: str) -> tuple[Path, Mapping[str, str]] | None:
    """The folder of a demo set and the class of each of its files, by name; None for a set that is painted on the spot.

    Raises: DataError where the set's package is missing or damaged.
    """
    return _elpv_files() if name == "elpv" else None


def demo_side_px(name: str) -> int:
    """The side of a demo set's images as they are stored or painted."""
    return _SIDES_PX[name]


def _load_elpv(*, size_px: int) -> Loaded:
    """2,624 solar cells under electroluminescence; a class is the cell's type and how probably it is defective.

    Source: Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images".
    """
    folder, classes = _elpv_files()
    loaded = decode_folder(folder, sorted(classes), size_px=size_px)
    if loaded.skipped:
        first = loaded.skipped[0]
        raise DataError(f"the package {_ELPV_PACKAGE} is damaged: {first.name}: {first.reason}; reinstall it")
    return replace(loaded, classes=tuple(classes[name] for name in loaded.names))


def _elpv_files() -> tuple[Path, Mapping[str, str]]:
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError(
            f"the demo set 'elpv' needs the package {_ELPV_PACKAGE}, which is not installed; "
            f"run `pip install {_ELPV_PACKAGE}` (91 MB; data licence CC-BY-NC-SA-4.0), or pass a folder of images"
        )
    folder = Path(spec.origin).parent / "data"
    try:
        rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines() if line]
        classes = {path: f"{kind} {float(probability):.0%} defective" for path, probability, kind in rows}
    except (OSError, ValueError) as error:
        raise DataError(f"the package {_ELPV_PACKAGE} is damaged: {error}; reinstall it") from error
    return folder, classes


_LOADERS = {"elpv": _load_elpv, "textures": load_textures}
_SIDES_PX = {"elpv": 300, "textures": NATIVE_PX}
