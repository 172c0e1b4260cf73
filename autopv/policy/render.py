"""From images and a policy to videos: first everything random is drawn, then it is applied.

Frames are made from the image downwards, each from its source frame (autopv.policy.markov), layer after layer.
Between frames nothing is clamped: it would break the exactness of the steps. Only the output is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy.markov import source_frame
from autopv.policy.ops.base import Draw

if TYPE_CHECKING:
    from autopv.policy.policy import Policy


@dataclass(frozen=True)
class LayerDraw:
    """What one layer draws for one batch of videos."""

    applies_B: Tensor | None
    """Which images' videos have this layer; None for all."""
    steps: Mapping[int, Draw]
    """The op's draw for every frame that it changes."""


@dataclass(frozen=True)
class VideoDraw:
    """Everything random in one batch of videos: applied to the same images, it makes the same videos."""

    policy: "Policy"
    shape_BCHW: tuple[int, int, int, int]
    layers: tuple[LayerDraw, ...]


def draw_video(
    policy: "Policy", shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device
) -> VideoDraw:
    """Draws for each layer its coins, then its steps from frame num_frames - 1 down to 1."""
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise PolicyError(
            f"generator must be a torch.Generator on the CPU (the policy itself draws on the images' device), "
            f"got {getattr(generator, 'device', type(generator).__name__)}"
        )
    shape_BCHW = _checked_shape(shape_BCHW)
    layers: list[LayerDraw] = []
    for layer in policy.layers:
        applies_B = None
        if layer.probability < 1:
            applies_B = (torch.rand(shape_BCHW[0], generator=generator) < layer.probability).to(device)
        steps: dict[int, Draw] = {}
        for frame in range(policy.num_frames - 1, 0, -1):
            source, target = _step(policy, layer_index=len(layers), frame=frame)
            if source == target:
                continue
            if policy.randomness == "shared" and steps:
                steps[frame] = next(iter(steps.values()))
            else:
                steps[frame] = layer.definition.draw(shape_BCHW, generator=generator, device=device)
        layers.append(LayerDraw(applies_B=applies_B, steps=steps))
    return VideoDraw(policy=policy, shape_BCHW=shape_BCHW, layers=tuple(layers))


def corrupt_video(policy: "Policy", images_BCHW: Tensor, draw: VideoDraw) -> Tensor:
    """Applies the draw: frames_BTCHW, in [0, 1], the last frame bit for bit the image.

    Raises: PolicyError where the draw was made for another policy or shape, or the images are not float in (B,C,H,W).
    """
    if images_BCHW.dtype not in (torch.float32, torch.float64):
        raise PolicyError(
            f"images_BCHW must be float32 (or float64) in [0, 1], got {images_BCHW.dtype}; convert uint8 images with "
            "autopv.data.tensors.to_float"
        )
    if draw.policy != policy:
        raise PolicyError(f"the draw must be made by the same policy, got one of: {draw.policy.describe()}")
    if draw.shape_BCHW != tuple(images_BCHW.shape):
        raise PolicyError(
            f"the draw must be made for images of the same shape, got {draw.shape_BCHW} for {tuple(images_BCHW.shape)}"
        )
    num_frames = policy.num_frames
    frames = {num_frames: images_BCHW}
    # Exactness would not survive the half precision that a caller's autocast gives to matrix products.
    with torch.autocast(images_BCHW.device.type, enabled=False):
        for frame in range(num_frames - 1, 0, -1):
            source_at = source_frame(frame, markov_order=policy.markov_order, num_frames=num_frames)
            frames[frame] = _stepped(policy, frames[source_at], draw, frame=frame)
        pseudo = [frames[frame].clamp(0, 1) for frame in range(1, num_frames)]
        return torch.stack([*pseudo, images_BCHW], dim=1)


def _stepped(policy: "Policy", current_BCHW: Tensor, draw: VideoDraw, *, frame: int) -> Tensor:
    """The frame, made from its source frame by a step of every layer."""
    for i, layer in enumerate(policy.layers):
        step = draw.layers[i].steps.get(frame)
        if step is None:
            continue
        source, target = _step(policy, layer_index=i, frame=frame)
        corrupted_BCHW = layer.definition.corrupt(current_BCHW, step, source=source, target=target)
        applies_B = draw.layers[i].applies_B
        if applies_B is None:
            current_BCHW = corrupted_BCHW
        else:
            current_BCHW = torch.where(applies_B[:, None, None, None], corrupted_BCHW, current_BCHW)
    return current_BCHW


def _step(policy: "Policy", *, layer_index: int, frame: int) -> tuple[float, float]:
    """The layer's magnitudes at the frame's source frame and at the frame."""
    layer = policy.layers[layer_index]
    source_at = source_frame(frame, markov_order=policy.markov_order, num_frames=policy.num_frames)
    return layer.magnitude_at(source_at), layer.magnitude_at(frame)


def _checked_shape(shape_BCHW: tuple[int, ...]) -> tuple[int, int, int, int]:
    if len(shape_BCHW) != 4 or min(shape_BCHW) < 1:
        raise PolicyError(f"shape_BCHW must be four sizes of at least 1, got {tuple(shape_BCHW)}")
    batch, channels, height, width = shape_BCHW
    return batch, channels, height, width
