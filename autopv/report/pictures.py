"""The pictures of a run: the pseudo video of a policy, and samples of the winner beside those of image-only training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autopv.data.pictures import image_grid, save_png
from autopv.data.tensors import to_float
from autopv.policy import Policy
from autopv.search.job import best_found, final_checkpoint, load_material
from autopv.search.run_folder import RunFolder
from autopv.search.study import read_records
from autopv.training.checkpoint import load_generator
from autopv.training.measure import sample_images
from autopv.verify.controls import IMAGE_ONLY

_PREVIEW_IMAGES = 6
_SAMPLE_SIDE = 6
# Small images are enlarged (each pixel becomes a square) to about this height.
_SHOWN_PX = 96


def write_preview(policy: Policy, images_NCHW: Tensor, path: Path, *, num_images: int = _PREVIEW_IMAGES, seed: int = 0) -> None:
    """Draws one row per image: its pseudo video, most corrupted frame left, the image itself right."""
    count = min(num_images, len(images_NCHW))
    chosen = images_NCHW[torch.arange(count) * len(images_NCHW) // count]
    frames_BTCHW = policy.render(to_float(chosen), generator=torch.Generator().manual_seed(seed))
    save_png(path, image_grid(frames_BTCHW.flatten(0, 1), columns=policy.num_frames, scale=_scale(chosen.shape[-1])))


def write_samples(columns: Sequence[tuple[str, Tensor]], path: Path) -> None:
    """Draws labelled square grids of images one below the other: samples beside real ones, say."""
    side = min(_SAMPLE_SIDE * 2, *(len(images) for _, images in columns))
    images = torch.cat([images_NCHW[:side] for _, images_NCHW in columns])
    labels = [label for label, _ in columns]
    save_png(path, image_grid(images, columns=side, scale=_scale(images.shape[-1], shown_px=64), row_labels=labels))


def write_run_pictures(folder: RunFolder) -> None:
    """Writes preview.png (the best policy found) and samples.png (its samples, image-only's, and real images)."""
    settings = folder.settings()
    material = load_material(settings)
    train = material.images("train")
    records = read_records(folder.study)
    best = best_found(records)
    if best is not None:
        write_preview(best.policy, train, folder.path / "preview.png")
    seeds = [int(path.name.rsplit("-", 1)[1]) for path in (folder.path / "verify").glob("verify-*")]
    rows = [("real", to_float(train[torch.arange(_SAMPLE_SIDE * 2) * len(train) // (_SAMPLE_SIDE * 2)]))]
    arms = [(IMAGE_ONLY, IMAGE_ONLY)] + ([(best.control or best.key, best.label)] if best is not None else [])
    for arm, label in arms:
        checkpoint = final_checkpoint(folder, arm=arm, verdict_seeds=seeds, records=records)
        if checkpoint is not None:
            model, _ = load_generator(checkpoint)
            samples = sample_images(model, num_images=2 * _SAMPLE_SIDE * 2, seed=settings.seed)
            rows += [(label, samples[: 2 * _SAMPLE_SIDE]), (label, samples[2 * _SAMPLE_SIDE :])]
    write_samples(rows, folder.path / "samples.png")


def _scale(size_px: int, *, shown_px: int = _SHOWN_PX) -> int:
    return max(1, shown_px // size_px)


def write_png_folder(images_NCHW: Tensor, folder: Path) -> None:
    """Writes each image as folder/00000.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images_NCHW):
        save_png(folder / f"{index:05d}.png", image_grid(image[None], columns=1, gap=0))
