"""The pictures of a run: its best policy's pseudo videos, and samples of the winner beside image-only training's."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.report.class_table import MOST_PICTURED
from autopv.report.preview import write_preview
from autopv.search.conclusion import best_found, known_floor, trained_model
from autopv.search.material import reload_material
from autopv.search.run_folder import RunFolder
from autopv.search.study_file import read_records
from autopv.training.checkpoint import load_generator
from autopv.training.measure import sample_images
from autopv.verify.controls import IMAGE_ONLY

_ROW = 12
# Small images are enlarged (each pixel becomes a square) to about this height.
_SAMPLE_PX = 64


def write_samples(rows: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Draws labelled rows of equally many images."""
    images = torch.cat([images_NCHW for _, images_NCHW in rows])
    scale = max(1, _SAMPLE_PX // images.shape[-1])
    save_png(path, image_grid(images, columns=len(rows[0][1]), scale=scale, row_labels=[label for label, _ in rows]))


def write_run_pictures(folder: RunFolder) -> None:
    """Writes preview.png (the best policy found) and samples.png (its samples, image-only's, and real images).

    Of a model with classes there are then samples of each class, too.
    """
    settings = folder.settings()
    material = reload_material(settings)
    train = material.images("train")
    records = read_records(folder.study)
    best = best_found(records, floor=known_floor(folder, split="search"), length=settings.extrapolation)
    rows = [("real", to_float(train[torch.arange(_ROW) * len(train) // _ROW]))]
    arms = [(IMAGE_ONLY, IMAGE_ONLY)]
    if best is not None:
        write_preview(best.record.policy, material.image_set, folder.path / "preview.png")
        arms.append((best.record.label, best.record.label))
    for arm, label in arms:
        checkpoint = trained_model(folder, arm=arm, records=records)
        if checkpoint is not None:
            model, info = load_generator(checkpoint)
            samples = sample_images(model, num_images=2 * _ROW, seed=settings.seed)
            rows += [(label, samples[:_ROW]), (label, samples[_ROW:])]
            if arm == arms[-1][0]:
                rows += [
                    (f"{label}, {name}", sample_images(model, num_images=_ROW, seed=settings.seed, label=place))
                    for place, name in enumerate(info.class_names[:MOST_PICTURED])
                ]
    write_samples(rows, folder.path / "samples.png")
