"""The pictures of an evaluation, for inspectors: images beside their nearest training images, and defects."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.evaluation.evaluate import Evaluation

# Small images are enlarged (each pixel becomes a square) to at least this height.
_TILE_PX = 96


def write_evaluation_pictures(evaluation: Evaluation, folder: Path) -> list[Path]:
    """The files written: `pairs-<k>.png` and `defects-<k>.png` for the k-th generated set, where there is something.

    Raises: OSError where the folder cannot be written.
    """
    written = []
    for number, label in enumerate(evaluation.record["generated"], start=1):
        for name, pairs, rows in (
            ("pairs", evaluation.pairs.get(label, ()), ("generated", "nearest training image")),
            ("defects", evaluation.defects.get(label, ()), ("real defect", "nearest generated")),
        ):
            if pairs:
                path = folder / f"{name}-{number}.png"
                _write_pairs(pairs, path, row_labels=rows)
                written.append(path)
    return written


def _write_pairs(pairs: Sequence[tuple[Tensor, Tensor]], path: Path, *, row_labels: tuple[str, str]) -> None:
    tiles = [image for side in (0, 1) for image in (pair[side] for pair in pairs)]
    height = max(tile.shape[-1] for tile in tiles)
    scale = -(-_TILE_PX // height)
    # Crops come in several sizes; a grid has one.
    same = [F.interpolate(to_float(tile)[None], size=(height, height), mode="nearest") for tile in tiles]
    save_png(path, image_grid(torch.cat(same), columns=len(pairs), scale=scale, row_labels=row_labels))
