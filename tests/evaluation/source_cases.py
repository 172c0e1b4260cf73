"""Image files, a checkpoint and an extractor that the tests of evaluation share."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from autopv.metrics.features import Extractor
from autopv.models.base import build_model
from autopv.policy.policy import Policy
from autopv.training.checkpoint import save_checkpoint
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

SIZE_PX = 8


def write_images(folder: Path, names: list[str], *, colour: bool = False, size: tuple[int, int] = (20, 24)) -> None:
    """Random images, of this (height, width), that depend on their names alone."""
    for name in names:
        random = np.random.default_rng(list(name.encode()))
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)).save(path)


def random_images(count: int, *, channels: int = 1, size_px: int = SIZE_PX, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size_px, size_px), generator=generator, dtype=torch.uint8)


def write_checkpoint(folder: Path, *, seed: int = 0) -> None:
    """The smallest model, untrained."""
    model = build_model("hvae", preset="tiny", size_px=SIZE_PX, channels=1, num_frames=1, seed=0)
    trainer = Trainer(
        "hvae",
        preset="tiny",
        size_px=SIZE_PX,
        channels=1,
        policy=Policy.image_only(),
        images_NCHW=random_images(8),
        plan=TrainingPlan(total_flops=100 * model.flops_per_image(1), batch_size=4),
        seed=seed,
    )
    save_checkpoint(trainer, folder)


class StandInExtractor(Extractor):
    """Fixed random projections of the images; it counts them, and can be told to be interrupted."""

    name = "stand-in"
    num_features = 5

    def __init__(self, *, version: str = "1", fail_after: int | None = None) -> None:
        super().__init__(input_size_px=32)
        self.num_seen = 0
        self._version = version
        self._fail_after = fail_after
        self._weights = torch.randn(3 * 32 * 32, 5, generator=torch.Generator().manual_seed(0))

    @property
    def digest(self) -> str:
        return f"digest {self._version}"

    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        self.num_seen += len(images_BCHW)
        if self._fail_after is not None and self.num_seen > self._fail_after:
            raise KeyboardInterrupt
        # In double precision, so that a sum's rounding does not depend on the batch.
        return images_BCHW.flatten(1).double() @ self._weights.double()
