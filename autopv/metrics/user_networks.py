"""A user's own network as a feature extractor: a TorchScript file or an nn.Module, looked at before it is believed.

The network takes float32 RGB images (B, 3, S, S) in [0, 1], does its own normalisation, and returns (B, D) or
(B, D, 1, 1). An integer attribute `input_size_px` states the S that it is meant for.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from autopv.errors import MetricError
from autopv.metrics.features import Extractor
from autopv.metrics.private_files import check_private
from autopv.metrics.torchscript import load_torchscript

# Raise when resizing changes: old numbers are then no longer comparable.
_PREPROCESSING = "bicubic-antialias, [0, 1], v1"
_PROBE_IMAGES = 4
# Kernels chosen by batch size differ by some 1e-6 of the largest feature; dropout and batch statistics by over 1e-2.
_TOLERANCE = 1e-4
_PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


class UserExtractor(Extractor):
    """Features of a network that autopv does not know; `weights_digest` stands for the network and all it holds.

    Raises: MetricError for a network that does not take the images, or whose features are not finite vectors, differ
        from call to call, or depend on the other images of a batch.
    """

    # Unknown networks may be large, and so may their images.
    chunk_size = 16

    def __init__(self, network: nn.Module, *, name: str, weights_digest: str, input_size_px: int | None = None) -> None:
        self.name = name
        super().__init__(input_size_px=declared_input_size_px(network) if input_size_px is None else input_size_px)
        self._network = network.eval()
        self._weights_digest = weights_digest
        self.precision = _precision(network)
        self.num_features = self._checked_num_features()

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"user network {self._weights_digest} {_PREPROCESSING}".encode()).hexdigest()

    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        self._network.to(images_BCHW.device)
        # A network may normalise in place, which grey images spread over three channels would not bear.
        features: Tensor = self._network(images_BCHW.contiguous())
        return features.flatten(1)

    def _checked_num_features(self) -> int:
        size_px = self.input_size_px
        probe_BCHW = torch.rand(_PROBE_IMAGES, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
        together_BD = self._probe(probe_BCHW)
        scale = _TOLERANCE * float(together_BD.abs().max())
        if float((self._probe(probe_BCHW) - together_BD).abs().max()) > scale:
            raise MetricError(
                f"a network must give the same features for the same images, but {self.name} does not; is there "
                "dropout or noise that eval() does not switch off?"
            )
        alone_BD = torch.cat([self._probe(image_1CHW) for image_1CHW in torch.split(probe_BCHW, 1)])
        if float((alone_BD - together_BD).abs().max()) > scale:
            raise MetricError(
                f"features must not depend on the other images of a batch, but those of {self.name} do; is there a "
                "batch norm that eval() does not switch to its stored statistics, or a norm over the batch?"
            )
        return together_BD.shape[1]

    def _probe(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D) of the images, on the CPU."""
        shown = f"({len(images_BCHW)}, 3, {self.input_size_px}, {self.input_size_px})"
        try:
            with torch.inference_mode():
                features = self._network.to("cpu")(images_BCHW.clone())
        except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
            raise MetricError(
                f"a network must take float32 images (B, 3, S, S) in [0, 1], but {self.name} cannot take {shown}: "
                f"{error}; is another input size meant?"
            ) from error
        if not isinstance(features, Tensor) or not features.is_floating_point():
            got = str(features.dtype) if isinstance(features, Tensor) else type(features).__name__
            raise MetricError(
                f"a network must return floating-point features as one tensor, but {self.name} returned {got}"
            )
        vectors = features.ndim == 2 or (features.ndim == 4 and features.shape[2:] == (1, 1))
        if not vectors or len(features) != len(images_BCHW) or features.shape[1] < 1:
            raise MetricError(
                f"a network must return (B, D) or (B, D, 1, 1), but {self.name} returned {tuple(features.shape)} for "
                f"images {shown}; is the pooling missing?"
            )
        if not bool(features.isfinite().all()):
            raise MetricError(f"features must be finite, but {self.name} returned nan or inf for images {shown}")
        return features.flatten(1).float()


def read_network(path: Path) -> tuple[nn.Module, str]:
    """The network of a TorchScript file, and the sha256 of the file.

    Raises: MetricError where the file is missing, other users can change it, or it is no TorchScript.
    """
    if not path.is_file():
        raise MetricError(f"a network must be the path of a TorchScript file, but {path} is not a file")
    check_private(path)
    content = path.read_bytes()
    return load_torchscript(content, where=str(path)), hashlib.sha256(content).hexdigest()


def network_digest(network: nn.Module) -> str:
    """sha256 of the qualified name of the network's class and of everything in its state dict."""
    kind = type(network)
    hashed = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor):
            value = value.detach().cpu().contiguous()
            hashed.update(f" {name} {value.dtype} {tuple(value.shape)} ".encode())
            hashed.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            hashed.update(f" {name} {value!r} ".encode())
    return hashed.hexdigest()


def declared_input_size_px(network: nn.Module) -> int:
    """The network's attribute `input_size_px`, else the default of all extractors."""
    declared = getattr(network, "input_size_px", None)
    return declared if isinstance(declared, int) else Extractor.default_input_size_px


def _precision(network: nn.Module) -> str:
    dtypes = {value.dtype for value in network.parameters() if value.is_floating_point()} or {torch.float32}
    return "+".join(sorted(_PRECISIONS.get(dtype, str(dtype)) for dtype in dtypes))
