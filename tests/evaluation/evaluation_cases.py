"""Feature sets of given features, folders of images that mean something, and a cheap network to look at them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from autopv.evaluation.feature_set import FeatureIdentity, FeatureSet
from autopv.evaluation.feature_shards import Shard, ShardFile

NETWORK = "evaluation_cases:Network"
_SHARD_ROWS = 64


class Network(nn.Module):
    """Means over an 8 x 8 grid, projected to 12 features."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weights", torch.randn(3 * 64, 12, generator=generator, dtype=torch.float64))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(images_BCHW.double(), 8)
        return (pooled.flatten(1) @ self.get_buffer("weights")).float()


def gaussian(count: int, *, width: int = 6, seed: int = 0, mean: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + torch.randn(count, width, generator=generator)


def feature_set(
    features_ND: Tensor,
    folder: Path,
    *,
    label: str,
    classes: Sequence[str] | None = None,
    size_px: int = 8,
) -> FeatureSet:
    """A set of these features; images with equal features count as copies."""
    digests = [hashlib.sha256(row.numpy().tobytes()).digest()[:16] for row in features_ND]
    files, sizes = [], []
    for start in range(0, len(features_ND), _SHARD_ROWS):
        rows = features_ND[start : start + _SHARD_ROWS]
        file = ShardFile(folder, {"label": label, "start": start})
        file.write(
            Shard(
                features_ND=rows.clone(),
                pixel_digests=tuple(digests[start : start + _SHARD_ROWS]),
                offsets=tuple(range(len(rows))),
                skipped=(),
            )
        )
        files.append(file)
        sizes.append(len(rows))
    return FeatureSet(
        label=label,
        identity=FeatureIdentity(
            extractor="given", extractor_digest="0", precision="fp32", input_size_px=32, size_px=size_px, device="cpu"
        ),
        num_features=features_ND.shape[1],
        names=tuple(f"{row:04d}.png" for row in range(len(features_ND))),
        classes=None if classes is None else tuple(classes),
        indices=tuple(range(len(features_ND))),
        pixel_digests=tuple(digests),
        skipped=(),
        files=tuple(files),
        file_sizes=tuple(sizes),
    )


def write_parts(
    folder: Path,
    count: int,
    *,
    seed: int,
    size_px: int = 16,
    shade: int = 0,
    classes: Sequence[str] = ("plate", "tube"),
    with_masks: bool = False,
    defects: bool = True,
) -> None:
    """Grey parts of each class in turn, every second with a dark spot; a class is a brightness. shade: added to all."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind = classes[number % len(classes)]
        level = 90 + 60 * classes.index(kind) + shade + random.normal(0, 10)
        pixels = random.normal(level, 12, (size_px, size_px))
        mask = np.zeros((size_px, size_px), dtype=np.uint8)
        if defects and number // len(classes) % 2:
            top, left = random.integers(0, size_px - 6, 2)
            mask[top : top + 6, left : left + 6] = 255
            pixels[mask > 0] -= 80
        root = folder / "images" / kind if with_masks else folder / kind
        save(root / f"{number:03d}.png", pixels)
        if with_masks and mask.any():
            save(folder / "masks" / kind / f"{number:03d}.png", mask)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
