"""The demo set `textures`: crops of three photographs, two thirds of them with a painted defect and its exact mask."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from autopv.data.channels import stack_images
from autopv.data.decode import BrokenImageError, reading, resize_array
from autopv.data.loaded import Loaded
from autopv.data.masks import fit_mask
from autopv.data.painted_defects import paint_defect
from autopv.errors import DataError

_PACKAGE = "scikit-image"
_GOOD = "good"
_DEFECTS = {
    "brick": ("hole", "missing", "scratch", "stain"),
    "grass": ("bare", "hole", "scratch", "stain"),
    "gravel": ("hole", "leaf", "scratch", "stain"),
}
# Of the pixels, so that another release's photographs cannot become another set under the same name.
_SHA256 = {
    "brick": "664a145c5253f0d66db1a12776785f0ea35a44cc7447ffc933f6d6118dc58643",
    "grass": "b18dae4c68bf850a7a7b28a29d1846c76be890665117b57fd125fe29c4d4ede6",
    "gravel": "3d51ad45f789cd8b98534b7af6bce774e499ead45421135afd757358c7230009",
}
# Each photograph (512 px) is cut into 6 x 6 tiles that share no pixel; the images of one tile are a group.
_TILES_PER_SIDE, _TILE_PX = 6, 85
NUM_TILES = _TILES_PER_SIDE**2
# Side of a crop within its tile, and of the finished image.
_CROP_PX = (64, _TILE_PX)
NATIVE_PX = 96
_BRIGHTNESS = (0.8, 1.2)


@dataclass(frozen=True, eq=False)
class _Sample:
    name: str
    kind: str
    group: str
    pixels_HW: NDArray[np.uint8]
    mask_HW: NDArray[np.bool_]


def load_textures(*, size_px: int) -> Loaded:
    """648 grey images: of each of 108 tiles two without a defect and one with each of the texture's four defects.

    Classes are `brick/good`, `brick/hole` and so on. Images of one tile overlap and form a group, so splits share no
    pixel. The names, and every byte, are those of the files that `write_mvtec_tree` writes.
    Raises: DataError where scikit-image is missing.
    """
    samples = sorted(_make_samples(num_tiles=NUM_TILES), key=lambda sample: sample.name)
    return Loaded(
        pixels_NHWC=stack_images([resize_array(sample.pixels_HW, size_px=size_px) for sample in samples]),
        names=tuple(sample.name for sample in samples),
        classes=tuple(sample.kind for sample in samples),
        masks_NHW=np.stack([fit_mask(sample.mask_HW, size_px=size_px) for sample in samples]),
        groups=tuple(sample.group for sample in samples),
    )


def write_mvtec_tree(folder: str | Path, *, num_tiles: int = NUM_TILES) -> None:
    """Writes the set as PNG files laid out like MVTec AD, one category for a texture, into a new or empty folder.

    num_tiles: of each texture, the first that many; each gives six images. As file names hold the tile's number,
    group_by=r"^(\\w+)/.*/(\\d+)" keeps the images of a tile together.
    Raises: DataError where the folder holds something, or scikit-image is missing.
    """
    from PIL import Image

    if not 1 <= num_tiles <= NUM_TILES:
        raise DataError(f"1 <= num_tiles <= {NUM_TILES} must hold, but got num_tiles={num_tiles}")
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"the tree is written into a new or empty folder, but {str(folder)!r} is neither")
    for sample in _make_samples(num_tiles=num_tiles):
        path = target / sample.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.pixels_HW).save(path)
        if sample.mask_HW.any():
            texture, kind = sample.kind.split("/")
            mask_path = target / texture / "ground_truth" / kind / f"{path.stem}_mask.png"
            mask_path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.mask_HW.astype(np.uint8) * 255).save(mask_path)


def _make_samples(*, num_tiles: int) -> Iterator[_Sample]:
    for texture, defects in _DEFECTS.items():
        photograph = _read_photograph(texture)
        for tile in range(num_tiles):
            top, left = (place * _TILE_PX for place in divmod(tile, _TILES_PER_SIDE))
            tile_HW = photograph[top : top + _TILE_PX, left : left + _TILE_PX]
            for split, kind in (("train", _GOOD), ("test", _GOOD), *(("test", defect) for defect in defects)):
                name = f"{texture}/{split}/{kind}/{tile:02d}.png"
                pixels_HW, mask_HW = _make_image(tile_HW, kind=kind, name=name)
                yield _Sample(name, f"{texture}/{kind}", f"{texture}/{tile:02d}", pixels_HW, mask_HW)


def _make_image(tile_HW: NDArray[np.uint8], *, kind: str, name: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A crop of the tile at the native size, with the defect (unless it is to be good), and its mask."""
    from PIL import Image

    # Seeded by its name, an image is the same whatever others are made. NumPy froze this generator's stream for good.
    random = RandomState(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    side = random.randint(_CROP_PX[0], _CROP_PX[1] + 1)
    top, left = random.randint(0, _TILE_PX - side + 1, 2)
    # Cut before it is resized: Pillow's filters would reach beyond a box into the next tile.
    crop = Image.fromarray(np.ascontiguousarray(tile_HW[top : top + side, left : left + side]))
    native = np.asarray(crop.resize((NATIVE_PX, NATIVE_PX), Image.Resampling.BICUBIC)) / 255
    for axis in (0, 1):
        if random.uniform() < 0.5:
            native = np.flip(native, axis)
    image_HW = (native * random.uniform(*_BRIGHTNESS)).clip(0, 1)
    mask_HW = np.zeros(image_HW.shape, dtype=bool)
    if kind != _GOOD:
        image_HW, mask_HW = paint_defect(kind, image_HW=image_HW, random=random)
    return (image_HW.clip(0, 1) * 255).round().astype(np.uint8), mask_HW


def _read_photograph(texture: str) -> NDArray[np.uint8]:
    """The photograph (512, 512) from the installed package's files; the package is not imported, nothing downloaded."""
    from PIL import Image

    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError(
            f"the demo set 'textures' needs the package {_PACKAGE}, which is not installed; "
            f"run `pip install {_PACKAGE}` (photographs: CC0), or pass a folder of images"
        )
    path = Path(spec.origin).parent / "data" / f"{texture}.png"
    try:
        with reading(), Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
    except (BrokenImageError, OSError) as error:
        raise DataError(
            f"the package {_PACKAGE} is damaged: reading {str(path)!r} failed: {error}; reinstall it"
        ) from error
    found = hashlib.sha256(pixels.tobytes()).hexdigest()
    if found != _SHA256[texture]:
        raise DataError(
            f"the demo set 'textures' is made from one known photograph of {texture}, but {str(path)!r} is another "
            f"(sha256 of its pixels {found[:12]}); install another release of {_PACKAGE}, such as 0.26"
        )
    return pixels
