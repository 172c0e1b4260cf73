"""Feature extractors: what turns images into the vectors that metrics compare."""

import math
from abc import ABC, abstractmethod
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.errors import MetricError, nearest

# Fixed, so that the same images give the same bits whatever the caller's batches were.
_CHUNK = 64
# Samples come clamped, resized images by float32 arithmetic: more than this beyond [0, 1] is another range by mistake.
_RANGE_SLACK = 1e-3
_DEFAULT_INPUT_SIZE_PX = 128


class Extractor(ABC):
    """A frozen network: images in [0, 1] of any size with 1, 3 or 4 channels -> float32 features."""

    name: str
    num_features: int
    # Features of another precision are another metric (bf16 against fp32: distance 3 where 0 is meant).
    precision: str = "fp32"

    def __init__(self, *, input_size_px: int) -> None:
        if not 32 <= input_size_px <= 1024:
            raise MetricError(f"32 <= input_size_px <= 1024 must hold, but got input_size_px={input_size_px}")
        self.input_size_px = input_size_px

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of the weights and of the preprocessing."""

    @abstractmethod
    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, num_features) of RGB images in [0, 1], already of the input size, on the images' device."""

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, num_features), float32 on the CPU, computed on the images' device.

        Grey images are repeated to three channels; a fourth channel is alpha, laid over white.
        Raises: MetricError for images that are not finite, not in [0, 1], or of another layout.
        """
        check_images(images_BCHW)
        rows = [self._features_of_chunk(chunk_BCHW) for chunk_BCHW in torch.split(images_BCHW, _CHUNK)]
        return torch.cat(rows) if rows else torch.zeros(0, self.num_features)

    def _features_of_chunk(self, images_BCHW: Tensor) -> Tensor:
        # cuDNN would otherwise convolve in TF32, which is not the precision that this extractor names.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images_BCHW = resize(_to_rgb(images_BCHW.to(torch.float32)), size_px=self.input_size_px)
            features_BD = self.forward_rgb(images_BCHW).float().cpu()
        # A clone made outside inference mode is an ordinary tensor again.
        return features_BD.clone()


def extractor_names() -> tuple[str, ...]:
    """The names that `load_extractor` knows."""
    return ("lite0",)


@cache
def load_extractor(name: str, *, input_size_px: int | None = None) -> Extractor:
    """The named extractor, loaded once per process.

    Raises: MetricError for an unknown name, or weights that are missing or not the expected ones.
    """
    if name not in extractor_names():
        raise MetricError(f"unknown feature extractor {name!r}.{nearest(name, extractor_names())}")
    from autopv.metrics.lite0 import Lite0Extractor

    return Lite0Extractor(input_size_px=_DEFAULT_INPUT_SIZE_PX if input_size_px is None else input_size_px)


def check_images(images_BCHW: Tensor) -> None:
    """Nothing, for finite float images in [0, 1] with 1, 3 or 4 channels; else raises MetricError."""
    if images_BCHW.ndim != 4 or images_BCHW.shape[1] not in (1, 3, 4) or not images_BCHW.is_floating_point():
        raise MetricError(
            "a metric takes float images (B, C, H, W) with 1, 3 or 4 channels, but got "
            f"{images_BCHW.dtype} with shape {tuple(images_BCHW.shape)}"
        )
    if images_BCHW.numel() == 0:
        return
    low, high = (float(bound) for bound in images_BCHW.detach().aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~images_BCHW.isfinite().flatten(1).all(dim=1)).sum())
        raise MetricError(f"images must be finite, but {bad} of {len(images_BCHW)} hold nan or inf")
    if low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        raise MetricError(f"images must lie in [0, 1], but range from {low:.4g} to {high:.4g}; clamp or rescale them")


def resize(images_BCHW: Tensor, *, size_px: int) -> Tensor:
    """The images at size_px x size_px, bicubic with antialiasing, in [0, 1]."""
    if images_BCHW.shape[-2:] != (size_px, size_px):
        images_BCHW = F.interpolate(images_BCHW, size=(size_px, size_px), mode="bicubic", antialias=True)
    return images_BCHW.clamp(0, 1)


def _to_rgb(images_BCHW: Tensor) -> Tensor:
    if images_BCHW.shape[1] == 1:
        return images_BCHW.expand(-1, 3, -1, -1)
    if images_BCHW.shape[1] == 4:
        alpha_B1HW = images_BCHW[:, 3:]
        return images_BCHW[:, :3] * alpha_B1HW + (1 - alpha_B1HW)
    return images_BCHW
