"""Data, a metric's network, requests and comparisons that the tests of full training share."""

import json
import math
import signal

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from training_cases import SIZE_PX, noise_policy

from autopv.models.base import build_model
from autopv.training.checkpoint import FILE_NAME
from autopv.training.full_request import TrainRequest
from autopv.training.listener import TrainingListener

# Looks are at 2, 5, 10 and 20 then, and their decays begin at 1, 4, 7 and 14.
STEPS = 20
METRIC = "fd_full_cases:network"


class Patches(nn.Module):
    """Twelve features of an image, by one fixed random convolution."""

    input_size_px = 32

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 5, stride=4), nn.Tanh(), nn.AdaptiveAvgPool2d(1))
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator) - 0.5)

    def forward(self, images):
        return self.layers(images)


network = Patches()


def write_images(path, *, num_images=110, seed=0):
    """An .npz file of grey images, each a bright square on a dark ground."""
    random = np.random.default_rng(seed)
    images = random.integers(20, 60, (num_images, SIZE_PX, SIZE_PX))
    for image in images:
        top, left = random.integers(0, SIZE_PX - 3, 2)
        image[top : top + 3, left : left + 3] += 150
    np.savez(path, images=images.astype(np.uint8))
    return path


def request(data, out, **changes):
    """A training of 20 steps with two frames."""
    settings = {"policy": noise_policy(), "steps": image_only_steps(STEPS), "size_px": SIZE_PX, "metric": METRIC}
    return TrainRequest(data=str(data), out=out, **{**settings, **changes})


def image_only_steps(steps):
    """How many image-only steps pay for so many steps with two frames."""
    model = build_model("hvae", preset="tiny", size_px=SIZE_PX, channels=1, num_frames=2, seed=0)
    return math.ceil(steps * model.flops_per_image(2) / model.flops_per_image(1))


class Heard(TrainingListener):
    """Remembers what it hears, and calls `after_look(number)` after each look."""

    def __init__(self, after_look=None):
        self.notes, self.beginnings, self.reports, self.looks = [], [], [], []
        self._after_look = after_look

    def note(self, text):
        self.notes.append(text)

    def began(self, beginning):
        self.beginnings.append(beginning)

    def progress(self, progress):
        self.reports.append(progress)

    def looked(self, look, *, course):
        assert course.looks[-1] == look
        self.looks.append(look)
        if self._after_look is not None:
            self._after_look(len(self.looks))


def contents(folder):
    """The header and the tensors of a folder's checkpoint."""
    with safe_open(folder / FILE_NAME, framework="pt") as file:
        return json.loads(file.metadata()["autopv"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same_contents(one, other):
    """Whether two folders hold the same checkpoint: header and tensors, to the bit."""
    (header, tensors), (other_header, other_tensors) = contents(one), contents(other)
    return (
        header == other_header
        and tensors.keys() == other_tensors.keys()
        and all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)
    )


def interrupt():
    """As if Ctrl-C were pressed now."""
    signal.raise_signal(signal.SIGINT)


class Killed(BaseException):
    """Ends a training like `kill -9`: nothing more is saved."""
