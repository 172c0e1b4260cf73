"""Small images, policies and comparisons that the tests of training share."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autopv.models.base import build_model
from autopv.policy.policy import Layer, Policy
from autopv.training.trainer import TRAINING_FLOPS_FACTOR

BATCH = 4
SIZE_PX = 8


def random_images(num_images=10, *, seed=0):
    shape = (num_images, 1, SIZE_PX, SIZE_PX)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def noise_policy(*, num_frames=2, weight=0.1, until=1.0):
    layer = Layer(op="gaussian_noise", magnitude=0.2, frames=(1, num_frames - 1))
    return Policy(num_frames=num_frames, frame_loss_weight=weight, frame_loss_until=until, layers=(layer,))


def flops_of(*, steps, num_frames, name="hvae"):
    model = build_model(name, preset="tiny", size_px=SIZE_PX, channels=1, num_frames=num_frames, seed=0)
    return steps * BATCH * TRAINING_FLOPS_FACTOR * model.flops_per_image(num_frames) * 1.0001


def same_state(one, other):
    """Whether two trainers hold the same state, to the bit."""
    a, b = one.learner.tensors(), other.learner.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_weights(one, other):
    """Whether two models hold the same weights, to the bit."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rewrite(path, *, without=(), **changes):
    """Changes what the header of a checkpoint file says."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["autopv"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    kept = {key: value for key, value in header.items() if key not in without}
    save_file(tensors, path, metadata={"autopv": json.dumps(kept | changes)})


class StopAfter:
    """A `should_stop` that lets so many steps pass."""

    def __init__(self, num_steps):
        self.left = num_steps

    def __call__(self):
        self.left -= 1
        return self.left < 0
