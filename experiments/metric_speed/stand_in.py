"""A stand-in for the official FID network where that cannot be had: its architecture and interface, random weights."""

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception_v3

from autopv.metrics.features import resize

FILE_NAME = "inception-2015-12-05.pt"
"""The name under which clean-fid looks for it in a folder."""
_INPUT_SIZE_PX = 299
_UP_TO_THE_FEATURES = (
    "Conv2d_1a_3x3",
    "Conv2d_2a_3x3",
    "Conv2d_2b_3x3",
    "maxpool1",
    "Conv2d_3b_1x1",
    "Conv2d_4a_3x3",
    "maxpool2",
    *(f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
    "avgpool",
)


class StandIn(nn.Module):
    """Inception-v3 as torchvision builds it, called as the official file is."""

    def __init__(self) -> None:
        super().__init__()
        network = inception_v3(weights=None, init_weights=False, transform_input=False)
        self.layers = nn.Sequential(*(getattr(network, name) for name in _UP_TO_THE_FEATURES))

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        img = F.interpolate(img, size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((img - 128) / 128).flatten(1)
        return features if return_features else features[:, :1]


def save_stand_in(path: Path, images_NCHW: Tensor, *, seed: int) -> None:
    """Writes the network, its batch norms set by these images (in [0, 1]) so that its activations are of usual size."""
    torch.manual_seed(seed)
    network = StandIn()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    with torch.no_grad():
        # Each layer sees what the layers before it give in training mode; one pass settles all of them.
        network.train().layers(resize(images_NCHW.expand(-1, 3, -1, -1), size_px=_INPUT_SIZE_PX) * 2 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, yet it is the format of the official file
        torch.jit.save(torch.jit.script(network.eval()), path)
