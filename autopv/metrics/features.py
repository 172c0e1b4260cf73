"""What every feature extractor is: a network that turns images into the vectors that metrics compare."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.errors import MetricError

# Samples come clamped, resized images by float32 arithmetic: more than this beyond [0, 1] is another range by mistake.
_RANGE_SLACK = 1e-3


class Extractor(ABC):
    """A frozen network: images in [0, 1] of any size with 1, 3 or 4 channels -> float32 features.

    Pickled, it is its `spec` alone: the process that reads it loads the network itself.
    """

    name: str
    num_features: int
    # Features of another precision are another metric (bf16 against fp32: distance 3 where 0 is meant).
    precision: str = "fp32"
    default_input_size_px: int = 128
    # Fixed, so that the same images give the same bits whatever the caller's batches were.
    chunk_size: int = 64

    def __init__(self, *, input_size_px: int) -> None:
        if not 32 <= input_size_px <= 1024:
            raise MetricError(f"32 <= input_size_px <= 1024 must hold, but got input_size_px={input_size_px}")
        self.input_size_px = input_size_px
        self.spec = self.name
        """What `load_extractor` makes it from again."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of the weights and of the preprocessing."""

    @abstractmethod
    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, num_features) of what `fit` returned, in three channels, on the images' device."""

    def fit(self, images_BCHW: Tensor) -> Tensor:
        """The images (RGB, or grey in one channel) in the size that the network takes: here, the input size."""
        return resize(images_BCHW, size_px=self.input_size_px)

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, num_features), float32 on the CPU, computed on the images' device.

        Grey images are repeated to three channels; a fourth channel is alpha, laid over white.
        Raises: MetricError for images that are not finite, not in [0, 1], or of another layout, and for features that
            are not finite.
        """
        check_images(images_BCHW)
        if len(images_BCHW) == 0:
            return torch.zeros(0, self.num_features)
        return torch.cat([self._features_of_chunk(chunk) for chunk in torch.split(images_BCHW, self.chunk_size)])

    def __reduce__(self) -> tuple[Callable[[str, int, str], "Extractor"], tuple[str, int, str]]:
        return _load_again, (self.spec, self.input_size_px, self.digest)

    def _features_of_chunk(self, images_BCHW: Tensor) -> Tensor:
        # cuDNN would otherwise convolve in TF32, which is not the precision that this extractor names.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # Grey stays one channel until it has been resized.
            images_BCHW = self.fit(_over_white(images_BCHW.to(torch.float32)))
            features_BD = self.forward_rgb(images_BCHW.expand(-1, 3, -1, -1)).float().cpu()
        if features_BD.shape != (len(images_BCHW), self.num_features):
            raise MetricError(
                f"the extractor {self.name!r} must return ({len(images_BCHW)}, {self.num_features}) features for "
                f"{len(images_BCHW)} images, but returned {tuple(features_BD.shape)}"
            )
        bad = int((~features_BD.isfinite().all(dim=1)).sum())
        if bad:
            raise MetricError(
                f"features must be finite, but the extractor {self.name!r} gave nan or inf for {bad} of "
                f"{len(features_BD)} images; its network does not suit them"
            )
        # A clone made outside inference mode is an ordinary tensor again.
        return features_BD.clone()


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


def _over_white(images_BCHW: Tensor) -> Tensor:
    if images_BCHW.shape[1] != 4:
        return images_BCHW
    alpha_B1HW = images_BCHW[:, 3:]
    return images_BCHW[:, :3] * alpha_B1HW + (1 - alpha_B1HW)


def _load_again(spec: str, input_size_px: int, digest: str) -> Extractor:
    # Extractors know the registry only here, where one comes out of a pickle.
    from autopv.metrics.extractors import load_extractor

    extractor = load_extractor(spec, input_size_px=input_size_px)
    if extractor.digest != digest:
        raise MetricError(
            f"the extractor {spec!r} must be the one that was sent (digest {digest[:12]}), but this process loads "
            f"{extractor.digest[:12]}; give all processes the same weights and the same version of autopv"
        )
    return extractor
