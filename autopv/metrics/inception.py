"""The network of the published FID: Inception-v3 as clean-fid uses it, 2048 pooled features.

Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule"; the resizing is that of Parmar et al., "On
Aliased Resizing and Surprising Subtleties in GAN Evaluation", modes `clean` and `legacy_tensorflow` of clean-fid.
The TorchScript file is NVIDIA's port of the original weights.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from autopv.errors import MetricError
from autopv.metrics.features import Extractor, resize
from autopv.metrics.torchscript import freeze_torchscript, load_torchscript
from autopv.metrics.weights import WeightFile, read_weights

WEIGHTS_VARIABLE = "AUTOPV_INCEPTION_WEIGHTS"
_INPUT_SIZE_PX = 299
# Larger chunks are no faster on a CPU, and the first layers need 20 MB for each image.
_CHUNK_SIZE = 16
_LEVELS = 255
# Between the network as it was loaded and the faster form of it, relative to the largest feature.
_TOLERANCE = 1e-4


def official_weights() -> WeightFile:
    """The file that clean-fid downloads, with the checksum that clean-fid does not look at."""
    # Imports `requests`, for one string.
    from cleanfid.downloads_helper import inception_url

    return WeightFile(
        file_name="inception-2015-12-05.pt",
        url=inception_url,
        size_bytes=95_607_719,
        sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
        variable=WEIGHTS_VARIABLE,
    )


class InceptionExtractor(Extractor):
    """Features in clean-fid's mode `clean`: 8-bit images, resized to 299 px with antialiasing and not rounded again.

    weights: another file with the interface of the official one; by default the official file, from
    `$AUTOPV_INCEPTION_WEIGHTS`, the cache, or a download.
    """

    name = "inception"
    num_features = 2048
    default_input_size_px = _INPUT_SIZE_PX
    chunk_size = _CHUNK_SIZE
    _preprocessing = "8 bits, bicubic-antialias to 299 px, v1"

    def __init__(self, *, input_size_px: int = _INPUT_SIZE_PX, weights: WeightFile | None = None) -> None:
        if input_size_px != _INPUT_SIZE_PX:
            raise MetricError(
                f"the extractor {self.name!r} has input_size_px={_INPUT_SIZE_PX}, but got {input_size_px}; leave it "
                "out, or use 'lite0', which takes any size"
            )
        super().__init__(input_size_px=input_size_px)
        weights = official_weights() if weights is None else weights
        self._weights_sha256 = weights.sha256
        network = load_torchscript(read_weights(weights), where=weights.file_name)
        # Nearly doubles the speed on a CPU, whatever the layout of the images.
        self._network = network.to(memory_format=torch.channels_last)
        self._prepared: tuple[torch.device, Callable[..., Tensor]] | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"inception {self._weights_sha256} {self._preprocessing}".encode()).hexdigest()

    def fit(self, images_BCHW: Tensor) -> Tensor:
        # In float64 this is PIL's result to 3e-5 of a level; in float32, to 1e-2 where the size hardly changes.
        return resize(_as_stored(images_BCHW).double(), size_px=_INPUT_SIZE_PX).float()

    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        if self._prepared is None or self._prepared[0] != images_BCHW.device:
            # One device at a time: the constants of a frozen network do not move with it.
            self._network.to(images_BCHW.device)
            self._prepared = (images_BCHW.device, self._fastest(images_BCHW.device))
        return self._run(self._prepared[1], images_BCHW)

    def _part(self) -> nn.Module:
        """The part of the network that is run: here, what follows its own resizing."""
        layers: nn.Module = self._network.layers  # type: ignore[assignment]
        return layers

    def _run(self, forward: Callable[..., Tensor], images_BCHW: Tensor) -> Tensor:
        scaled_BCHW = (images_BCHW * _LEVELS - 128) / 128
        return forward(scaled_BCHW).flatten(1)

    def _fastest(self, device: torch.device) -> Callable[..., Tensor]:
        """The network with its batch norms folded into its convolutions, unless that changes its features."""
        plain = self._part()
        probe_BCHW = torch.rand(2, 3, _INPUT_SIZE_PX, _INPUT_SIZE_PX, generator=torch.Generator().manual_seed(0))
        probe_BCHW = probe_BCHW.to(device)
        expected_BD = self._run(plain, probe_BCHW)
        try:
            frozen = freeze_torchscript(plain)
            apart = (self._run(frozen, probe_BCHW) - expected_BD).abs().max()
        except RuntimeError:
            return plain
        return frozen if bool(apart <= _TOLERANCE * expected_BD.abs().max()) else plain


class LegacyInceptionExtractor(InceptionExtractor):
    """Features in clean-fid's mode `legacy_tensorflow`: the network itself resizes 8-bit images, and aliases."""

    name = "inception-legacy"
    _preprocessing = "8 bits, resized by the network, v1"

    def fit(self, images_BCHW: Tensor) -> Tensor:
        return _as_stored(images_BCHW)

    def _part(self) -> nn.Module:
        return self._network

    def _run(self, forward: Callable[..., Tensor], images_BCHW: Tensor) -> Tensor:
        return forward(images_BCHW * _LEVELS, return_features=True).flatten(1)


def _as_stored(images_BCHW: Tensor) -> Tensor:
    """The images rounded to 256 levels, as a picture file would hold them."""
    return (images_BCHW.clamp(0, 1) * _LEVELS).round() / _LEVELS
