"""The pictures of a run: a policy's pseudo videos, and samples of the winner beside those of image-only training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.policy import Policy
from autopv.search.conclusion import best_found, trained_model
from autopv.search.material import reload_material
from autopv.search.run_folder import RunFolder
from autopv.search.study import read_records
from autopv.training.checkpoint import load_generator
from autopv.training.measure import sample_images
from autopv.verify.controls import IMAGE_ONLY

_PREVIEW_IMAGES = 6
_ROW = 12
# Small images are enlarged (each pixel becomes a square) to about this height.
_SHOWN_PX = 128
_SAMPLE_PX = 64


def write_preview(
    policy: Policy, images_NCHW: Tensor, path: Path, *, num_images: int = _PREVIEW_IMAGES, seed: int = 0
) -> None:
    """Draws one row per image: its pseudo video, most corrupted frame left, the image itself right."""
    count = min(num_images, len(images_NCHW))
    chosen = images_NCHW[torch.arange(count) * len(images_NCHW) // count]
    frames_BTCHW = policy.render(to_float(chosen), generator=torch.Generator().manual_seed(seed))
    save_png(path, image_grid(frames_BTCHW.flatten(0, 1), columns=policy.num_frames, scale=_scale(chosen.shape[-1])))


def write_samples(rows: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Draws labelled rows of equally many images."""
    images = torch.cat([images_NCHW for _, images_NCHW in rows])
    scale = _scale(images.shape[-1], shown_px=_SAMPLE_PX)
    save_png(path, image_grid(images, columns=len(rows[0][1]), scale=scale, row_labels=[label for label, _ in rows]))


def write_run_pictures(folder: RunFolder) -> None:
    """Writes preview.png (the best policy found) and samples.png (its samples, image-only's, and real images)."""
    settings = folder.settings()
    train = reload_material(settings).images("train")
    records = read_records(folder.study)
    best = best_found(records)
    rows = [("real", to_float(train[torch.arange(_ROW) * len(train) // _ROW]))]
    arms = [(IMAGE_ONLY, IMAGE_ONLY)]
    if best is not None:
        write_preview(best.policy, train, folder.path / "preview.png")
        arms.append((best.control or best.key, best.label))
    for arm, label in arms:
        checkpoint = trained_model(folder, arm=arm, records=records)
        if checkpoint is not None:
            model, _ = load_generator(checkpoint)
            samples = sample_images(model, num_images=2 * _ROW, seed=settings.seed)
            rows += [(label, samples[:_ROW]), (label, samples[_ROW:])]
    write_samples(rows, folder.path / "samples.png")


def _scale(size_px: int, *, shown_px: int = _SHOWN_PX) -> int:
    return max(1, shown_px // size_px)


def write_png_folder(images_NCHW: Tensor, folder: Path) -> None:
    """Writes each image as folder/00000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images_NCHW):
        save_png(folder / f"{index:05d}.png", image_grid(image[None], columns=1, gap=0))
