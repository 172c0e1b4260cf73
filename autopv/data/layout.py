"""Which files of a folder are images, which are their defect masks, and which class each image is of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from autopv.errors import DataError

_SUFFIX = "_mask"
_IMAGES, _MASKS = "images", "masks"
_TRUTH, _TEST = "ground_truth", "test"
_SPLITS = ("train", _TEST, "validation")
# Folders of images without a defect, which need no mask.
_GOOD = ("good", "ok")


@dataclass(frozen=True)
class Layout:
    """Names of images, with the class and the mask of each.

    masks: None in the place of an image without a defect; None altogether for a folder without masks.
    """

    images: tuple[str, ...]
    classes: tuple[str, ...]
    masks: tuple[str | None, ...] | None


def find_layout(names: Sequence[str], *, folder: Path) -> Layout:
    """Images and masks told apart by their names (relative to the folder, with forward slashes).

    Known are, in this order:
    - `ground_truth/<defect>/` beside `test/<defect>/` and `train/good/` (MVTec AD), of one category or, one folder
      deeper, of several. The split does not matter; classes are `good` and the defects, `<category>/<defect>` of
      several. Every image must have a mask unless its folder is `good` (or `ok`).
    - `masks/` beside `images/` (in any case), at any depth: an image without a mask has no defect. Classes are the
      folders of the first level as they would be without `images/`.
    - `<stem>_mask` beside `<stem>`: an image without a mask has no defect.
    - anything else: images without masks, whose classes are the folders of the first level.
    In the first two, masks are named like their images, or with `_mask` added. Suffixes may differ.
    Raises: DataError for a mask that fits no image or several, and for a missing one.
    """
    parts = {name: PurePosixPath(name).parts for name in names}
    if any(_TRUTH in parts[name][:-1] for name in names):
        return _mvtec(parts, folder=folder)
    roots: dict[str, set[tuple[str, ...]]] = {_IMAGES: set(), _MASKS: set()}
    for path in parts.values():
        place = _outermost(path)
        if place is not None:
            roots[path[place].lower()].add(path[:place])
    if roots[_IMAGES] & roots[_MASKS]:
        return _sibling_folders(parts, folder=folder)
    return _sibling_files(names, folder=folder)


def _mvtec(parts: Mapping[str, tuple[str, ...]], *, folder: Path) -> Layout:
    for name, path in parts.items():
        if len(path) < 3 or path[-3] not in (*_SPLITS, _TRUTH):
            raise DataError(
                f"beside a folder {_TRUTH} images must lie in {', '.join(f'{split}/<defect>' for split in _SPLITS)}, "
                f"and masks in {_TRUTH}/<defect>, one for an image, but {name!r} below {str(folder)!r} does not; move "
                f"it, or name the folders {_IMAGES} and {_MASKS}"
            )
    images = [name for name, path in parts.items() if path[-3] != _TRUTH]
    mirrored = {
        name: "/".join((*path[:-3], _TEST, path[-2], PurePosixPath(name).stem))
        for name, path in parts.items()
        if path[-3] == _TRUTH
    }
    masks = _pair({name: _stem(name) for name in images}, mirrored, folder=folder)
    for name in images:
        *category, _, kind, _ = parts[name]
        if kind not in _GOOD and name not in masks:
            expected = "/".join((*category, _TRUTH, kind, f"{PurePosixPath(name).stem}{_SUFFIX}.png"))
            raise DataError(
                f"every image of a defect must have its mask, but {name!r} below {str(folder)!r} has none; "
                f"expected {expected!r} (or named like the image; any image suffix)"
            )
    return Layout(
        images=tuple(images),
        classes=tuple("/".join((*parts[name][:-3], parts[name][-2])) for name in images),
        masks=tuple(masks.get(name) for name in images),
    )


def _sibling_folders(parts: Mapping[str, tuple[str, ...]], *, folder: Path) -> Layout:
    mirrored: dict[str, str] = {}
    images: dict[str, str] = {}
    classes: list[str] = []
    for name, path in parts.items():
        place = _outermost(path)
        if place is None:
            images[name] = _stem(name)
            classes.append(_first_level(path))
            continue
        stem = _stem("/".join((*path[:place], _IMAGES, *path[place + 1 :])))
        if path[place].lower() == _MASKS:
            mirrored[name] = stem
        else:
            images[name] = stem
            classes.append(_first_level((*path[:place], *path[place + 1 :])))
    masks = _pair(images, mirrored, folder=folder)
    return Layout(images=tuple(images), classes=tuple(classes), masks=tuple(masks.get(name) for name in images))


def _outermost(path: tuple[str, ...]) -> int | None:
    """Where in a path the first folder called images or masks (in any case) is."""
    return next((place for place, part in enumerate(path[:-1]) if part.lower() in (_IMAGES, _MASKS)), None)


def _sibling_files(names: Sequence[str], *, folder: Path) -> Layout:
    mirrored = {name: _stem(name) for name in names if _stem(name).endswith(_SUFFIX)}
    images = {name: _stem(name) for name in names if name not in mirrored}
    # Without one pair these are images that happen to be called masks.
    if not {stem.removesuffix(_SUFFIX) for stem in mirrored.values()} & set(images.values()):
        return Layout(images=tuple(names), classes=_classes(names), masks=None)
    masks = _pair(images, mirrored, folder=folder)
    return Layout(images=tuple(images), classes=_classes(list(images)), masks=tuple(masks.get(name) for name in images))


def _pair(images: Mapping[str, str], mirrored: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """The mask of each image that has one.

    images: each with its path without suffix. mirrored: each mask with the path, without suffix, that an image named
    like it would have.
    """
    by_stem: dict[str, list[str]] = {}
    for name, stem in images.items():
        by_stem.setdefault(stem, []).append(name)
    masks: dict[str, str] = {}
    for mask, stem in mirrored.items():
        found = by_stem.get(stem) or by_stem.get(stem.removesuffix(_SUFFIX)) or []
        if not found:
            raise DataError(
                f"every mask must have its image, but {mask!r} below {str(folder)!r} has none; expected "
                f"'{stem.removesuffix(_SUFFIX)}' with an image suffix; add the image, or remove the mask"
            )
        if len(found) > 1:
            raise DataError(
                f"a mask must fit one image, but {mask!r} below {str(folder)!r} fits {found[0]!r} and {found[1]!r}; "
                "give the images different stems"
            )
        other = masks.setdefault(found[0], mask)
        if other != mask:
            raise DataError(
                f"an image must have one mask, but {found[0]!r} below {str(folder)!r} has {other!r} and {mask!r}; "
                "unite them in one file"
            )
    return masks


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _classes(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(_first_level(PurePosixPath(name).parts) for name in names)


def _first_level(path: tuple[str, ...]) -> str:
    # Images that lie beside the class folders form a class of their own.
    return path[0] if len(path) > 1 else "."
