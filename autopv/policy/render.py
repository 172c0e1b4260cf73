"""From images and a policy to videos: everything random is drawn apart from being applied, so a video can be replayed.

Frames are made from the image downwards, each from its source frame (autopv.policy.markov), layer after layer.
Between frames nothing is clamped: it would break the exactness of the steps. Only the output is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy.markov import source_frame
from autopv.policy.ops.base import Draw

if TYPE_CHECKING:
    from autopv.policy.policy import Policy

Shape = tuple[int, int, int, int]
StepDraws = Callable[[int, int], Draw]
"""The draw of a layer (by index) for a frame."""


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
    shape_BCHW: Shape
    layers: tuple[LayerDraw, ...]


@dataclass(frozen=True)
class Beside:
    """What ops may need beside the images: defect masks (bool), and a bank of other images."""

    masks_BHW: Tensor | None = None
    donors_NCHW: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """Which images of a larger batch are rendered: those from `first` on of `total`, elsewhere the others."""

    first: int
    total: int

    def of(self, drawn: Tensor, *, num_images: int) -> Tensor:
        """The rows of the part, of what was drawn for the larger batch."""
        return drawn[self.first : self.first + num_images]


def draw_video(policy: "Policy", shape_BCHW: Shape, *, generator: torch.Generator, device: torch.device) -> VideoDraw:
    """Draws every layer's coins, then the steps of frame num_frames - 1 in the order of the layers, and so on down."""
    shape_BCHW = _checked_shape(shape_BCHW)
    coins, draws = _drawing(policy, shape_BCHW, generator=generator, device=device)
    steps: list[dict[int, Draw]] = [{} for _ in policy.layers]
    for frame in range(policy.num_frames - 1, 0, -1):
        for i in range(len(policy.layers)):
            source, target = _step(policy, layer_index=i, frame=frame)
            if source != target:
                steps[i][frame] = draws(frame, i)
    layers = zip(coins, steps, strict=True)
    return VideoDraw(
        policy=policy,
        shape_BCHW=shape_BCHW,
        layers=tuple(LayerDraw(applies_B=applies_B, steps=of_layer) for applies_B, of_layer in layers),
    )


@torch.no_grad()
def corrupt_video(policy: "Policy", images_BCHW: Tensor, draw: VideoDraw, *, beside: Beside) -> Tensor:
    """Applies the draw: frames_BTCHW, in [0, 1], the last frame bit for bit the image. No gradient flows back.

    Raises: PolicyError where the draw was made for another policy or shape, or the images are not float in (B,C,H,W).
    """
    shape_BCHW = _checked_images(images_BCHW)
    if draw.policy != policy:
        raise PolicyError(f"the draw must be made by the same policy, got one of: {draw.policy.describe()}")
    if draw.shape_BCHW != shape_BCHW:
        raise PolicyError(f"the draw must be made for images of the same shape, got {draw.shape_BCHW} for {shape_BCHW}")
    coins = [layer.applies_B for layer in draw.layers]
    return _frames(policy, images_BCHW, coins=coins, draws=lambda frame, i: draw.layers[i].steps[frame], beside=beside)


@torch.no_grad()
def render_video(
    policy: "Policy",
    images_BCHW: Tensor,
    *,
    generator: torch.Generator,
    beside: Beside,
    part: Part | None = None,
) -> Tensor:
    """`corrupt_video` of `draw_video`, each step drawn when it is applied: only one is held at a time.

    Of a part, everything is drawn for the larger batch: where an image's numbers lie in a stream depends on its size.
    """
    shape_BCHW = _checked_images(images_BCHW)
    if part is None:
        coins, draws = _drawing(policy, shape_BCHW, generator=generator, device=images_BCHW.device)
    else:
        batch, channels, height, width = shape_BCHW
        if not 0 <= part.first <= part.total - batch:
            raise PolicyError(
                f"0 <= first <= total - images must hold for a part of a batch, got {part} for {batch} images"
            )
        whole = _drawing(policy, (part.total, channels, height, width), generator=generator, device=images_BCHW.device)
        coins, draws = _in_part(part, *whole, num_images=batch)
    return _frames(policy, images_BCHW, coins=coins, draws=draws, beside=beside)


def _drawing(
    policy: "Policy", shape_BCHW: Shape, *, generator: torch.Generator, device: torch.device
) -> tuple[list[Tensor | None], StepDraws]:
    """Every layer's coins, and its steps: to be asked once each, in the order in which frames are made."""
    if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
        raise PolicyError(
            f"generator must be a torch.Generator on the CPU (the policy itself draws on the images' device), "
            f"got {getattr(generator, 'device', type(generator).__name__)}"
        )
    coins: list[Tensor | None] = []
    for layer in policy.layers:
        applies_B = None
        if layer.probability < 1:
            applies_B = torch.rand(shape_BCHW[0], generator=generator) < layer.probability
            applies_B = applies_B.to(device, non_blocking=True)
        coins.append(applies_B)
    shared: dict[int, Draw] = {}

    def draws(_: int, i: int) -> Draw:
        if i in shared:
            return shared[i]
        with torch.autocast(device.type, enabled=False):  # fields are made by matrix products too
            step = policy.layers[i].definition.draw(shape_BCHW, generator=generator, device=device)
        if policy.randomness == "shared":
            shared[i] = step
        return step

    return coins, draws


def _in_part(
    part: Part, coins: list[Tensor | None], draws: StepDraws, *, num_images: int
) -> tuple[list[Tensor | None], StepDraws]:
    """The coins and steps of the part's images alone: in all that ops draw the images come first."""
    own = [None if applies_B is None else part.of(applies_B, num_images=num_images) for applies_B in coins]

    def own_draws(frame: int, i: int) -> Draw:
        return {name: part.of(drawn, num_images=num_images) for name, drawn in draws(frame, i).items()}

    return own, own_draws


def _frames(
    policy: "Policy", images_BCHW: Tensor, *, coins: list[Tensor | None], draws: StepDraws, beside: Beside
) -> Tensor:
    num_frames = policy.num_frames
    batch, *rest = images_BCHW.shape
    frames_BTCHW = images_BCHW.new_empty(batch, num_frames, *rest)
    frames_BTCHW[:, -1] = images_BCHW
    # Half precision is kept for the output alone: small steps would vanish in it.
    images_BCHW = images_BCHW if images_BCHW.dtype in (torch.float32, torch.float64) else images_BCHW.float()
    prepared = _prepared(policy, images_BCHW, beside=beside)
    held = {num_frames: images_BCHW}
    # Exactness would not survive the half precision that a caller's autocast gives to matrix products.
    with torch.autocast(images_BCHW.device.type, enabled=False):
        for frame in range(num_frames - 1, 0, -1):
            current_BCHW = held[source_frame(frame, markov_order=policy.markov_order, num_frames=num_frames)]
            for i, layer in enumerate(policy.layers):
                source, target = _step(policy, layer_index=i, frame=frame)
                if source == target:
                    continue
                step = {**draws(frame, i), **prepared[i]}
                corrupted_BCHW = layer.definition.corrupt(current_BCHW, step, source=source, target=target)
                applies_B = coins[i]
                if applies_B is not None:
                    corrupted_BCHW = torch.where(applies_B[:, None, None, None], corrupted_BCHW, current_BCHW)
                current_BCHW = corrupted_BCHW
            if current_BCHW.dtype == frames_BTCHW.dtype:
                torch.clamp(current_BCHW, 0, 1, out=frames_BTCHW[:, frame - 1])
            else:
                frames_BTCHW[:, frame - 1] = current_BCHW.clamp(0, 1)
            held.pop(frame + policy.markov_order, None)
            if frame > policy.markov_order:  # a frame further down is made from it
                held[frame] = current_BCHW
    return frames_BTCHW


def _prepared(policy: "Policy", images_BCHW: Tensor, *, beside: Beside) -> list[Draw]:
    """What each layer's op prepares. Raises: PolicyError where it needs what is not there, or of another shape."""
    batch, *rest = images_BCHW.shape
    masks_BHW, donors_NCHW = beside.masks_BHW, beside.donors_NCHW
    if masks_BHW is not None and (masks_BHW.shape != (batch, *rest[1:]) or masks_BHW.dtype != torch.bool):
        raise PolicyError(
            f"masks_BHW must be bool, one per image and of its size ({batch}, {rest[1]}, {rest[2]}), got "
            f"{masks_BHW.dtype} of {tuple(masks_BHW.shape)}"
        )
    if donors_NCHW is not None:
        if donors_NCHW.ndim != 4 or list(donors_NCHW.shape[1:]) != rest or len(donors_NCHW) == 0:
            raise PolicyError(
                f"donors must be images (N, {rest[0]}, {rest[1]}, {rest[2]}) like the others, N >= 1, got "
                f"{tuple(donors_NCHW.shape)}"
            )
        donors_NCHW = donors_NCHW.to(images_BCHW.dtype)
    prepared: list[Draw] = []
    for layer in policy.layers:
        op = layer.definition
        if "masks" in op.needs and masks_BHW is None:
            raise PolicyError(
                f"op {op.name} needs to know where the defects are (masks_BHW), but these images have no masks; give "
                "data with masks, or take a policy without it"
            )
        if "donors" in op.needs and donors_NCHW is None:
            raise PolicyError(f"op {op.name} needs other images to take from (donors), but there are none")
        prepared.append(op.prepare(images_BCHW, masks_BHW=masks_BHW, donors_NCHW=donors_NCHW))
    return prepared


def _step(policy: "Policy", *, layer_index: int, frame: int) -> tuple[float, float]:
    """The layer's magnitudes at the frame's source frame and at the frame."""
    layer = policy.layers[layer_index]
    source_at = source_frame(frame, markov_order=policy.markov_order, num_frames=policy.num_frames)
    return layer.magnitude_at(source_at), layer.magnitude_at(frame)


def _checked_images(images_BCHW: Tensor) -> Shape:
    if not images_BCHW.is_floating_point():
        raise PolicyError(
            f"images_BCHW must be floating-point in [0, 1], got {images_BCHW.dtype}; convert uint8 images with "
            "autopv.data.tensors.to_float"
        )
    return _checked_shape(images_BCHW.shape)


def _checked_shape(shape_BCHW: tuple[int, ...]) -> Shape:
    if len(shape_BCHW) != 4 or min(shape_BCHW) < 1:
        raise PolicyError(f"shape_BCHW must be four sizes of at least 1, got {tuple(shape_BCHW)}")
    batch, channels, height, width = shape_BCHW
    return batch, channels, height, width
