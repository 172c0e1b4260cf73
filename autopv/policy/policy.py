"""The policy: which corruptions make an image into a pseudo video, as a value to compare, hash and save."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy import json_io, rules
from autopv.policy.canonical import canonical_policy
from autopv.policy.curves import level
from autopv.policy.ops import Op, get_op
from autopv.policy.render import Beside, Part, VideoDraw, corrupt_video, draw_video, render_video
from autopv.policy.text import policy_mapping, policy_text


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One corruption over the frames of a video. Raises: PolicyError where a value breaks its rule."""

    op: str
    magnitude: float
    """In the op's own unit, at the most corrupted frame; 0 switches the layer off."""
    curve: str = "linear"
    frames: tuple[int, int]
    """(a, b): full magnitude up to frame a, then falling along the curve to zero at frame b + 1."""
    probability: float = 1.0
    """Chance that an image's video has this layer at all, drawn once per image and video."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "op", rules.op_name(self.op, at="layer.op"))
        magnitude = rules.magnitude(self.magnitude, at="layer.magnitude", op=self.op)
        object.__setattr__(self, "magnitude", magnitude)
        object.__setattr__(self, "curve", rules.curve(self.curve, at="layer.curve"))
        object.__setattr__(self, "frames", rules.active_frames(self.frames, at="layer.frames"))
        probability = rules.number(self.probability, at="layer.probability", low=0.0, high=1.0)
        object.__setattr__(self, "probability", probability)

    @property
    def definition(self) -> Op:
        """The registered op that this layer applies."""
        return get_op(self.op)

    def magnitude_at(self, frame: int) -> float:
        """The magnitude that `frame` carries (1 = most corrupted)."""
        return self.magnitude * level(self.curve, frame=frame, frames=self.frames)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Layers of corruption over the frames of a video whose last frame is the image.

    Raises: PolicyError naming the key, its rule and the value received.

    >>> blur = Layer(op="gaussian_blur", magnitude=0.06, frames=(1, 3))
    >>> Policy(num_frames=4, layers=(blur,)).describe()
    'T=4 order=1 fresh weight=0.1: gaussian_blur sigma=0.06 linear 1-3'
    """

    num_frames: int = 1
    markov_order: int = 1
    """Frame t is made from frame t + markov_order; past the end, from the image."""
    randomness: str = "fresh"
    """"fresh" draws anew for every frame, "shared" makes one draw that grows over the video."""
    frame_loss_weight: float = 0.1
    """Weight of each pseudo frame's loss against the last frame's 1."""
    frame_loss_until: float = 1.0
    """Share of the training over which that weight falls linearly to 0; at 1 it does not fall."""
    layers: tuple[Layer, ...] = ()
    provenance: Mapping[str, Any] | None = field(default=None, compare=False)
    """Where the policy came from, in plain JSON values; no part of its identity."""

    def __post_init__(self) -> None:
        num_frames = rules.whole(self.num_frames, at="num_frames", low=1, high=rules.MAX_FRAMES)
        rules.whole(self.markov_order, at="markov_order", low=1, high=max(1, num_frames - 1))
        rules.choice(self.randomness, at="randomness", known=rules.RANDOMNESS)
        if self.randomness == "shared" and self.markov_order != max(1, num_frames - 1):
            raise PolicyError(
                f'randomness "shared" needs every frame straight from the image, markov_order = num_frames - 1 = '
                f"{num_frames - 1}, got markov_order {self.markov_order}"
            )
        weight = rules.number(
            self.frame_loss_weight, at="frame_loss_weight", low=0.0, high=rules.MAX_FRAME_LOSS_WEIGHT, above_low=True
        )
        object.__setattr__(self, "frame_loss_weight", weight)
        until = rules.number(self.frame_loss_until, at="frame_loss_until", low=0.0, high=1.0, above_low=True)
        object.__setattr__(self, "frame_loss_until", until)
        if not isinstance(self.layers, list | tuple) or not all(isinstance(layer, Layer) for layer in self.layers):
            raise PolicyError(f"layers must be Layer objects, got {rules.show(self.layers)}")
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.layers) > rules.MAX_LAYERS:
            raise PolicyError(f"layers must be at most {rules.MAX_LAYERS}, got {len(self.layers)}")
        if self.layers and num_frames == 1:
            raise PolicyError("layers must be empty where num_frames is 1: the only frame is the image itself")
        for i, layer in enumerate(self.layers):
            rules.active_frames(layer.frames, at=f"layers[{i}].frames", num_frames=num_frames)
        if self.provenance is not None:
            if not isinstance(self.provenance, Mapping):
                raise PolicyError(f"provenance must be an object or null, got {rules.show(self.provenance)}")
            object.__setattr__(self, "provenance", rules.finite_json(self.provenance, at="provenance"))

    @classmethod
    def image_only(cls) -> "Policy":
        """The policy without pseudo frames: plain training of the image generator."""
        return cls()

    @property
    def is_image_only(self) -> bool:
        """Whether the canonical form is image-only training."""
        return self.canonical() == Policy.image_only()

    def canonical(self) -> "Policy":
        """The policy with everything normalised away that cannot change what is rendered. Keeps the provenance."""
        return canonical_policy(self)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical form without provenance: equal for policies that render and weigh alike."""
        form = self.canonical().to_dict()
        form.pop("provenance", None)
        return hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def short_digest(self) -> str:
        """The first 8 characters of the digest."""
        return self.digest[:8]

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], *, where: str = "policy") -> "Policy":
        """The policy that the JSON object states. Raises: PolicyError naming `where` and the key path."""
        values = json_io.policy_values(mapping, where=where)
        layers = tuple(Layer(**layer) for layer in values.pop("layers"))
        try:
            return cls(layers=layers, **values)
        except PolicyError as error:
            raise PolicyError(f"{where}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that `from_dict` reads."""
        return json_io.policy_dict(self)

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """The policy in a JSON file. Raises: PolicyError naming the file, the place in it and the rule."""
        return cls.from_dict(json_io.read_json(Path(path)), where=str(path))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes the policy as JSON, whole or not at all. Raises: PolicyError where the file exists, unless told."""
        json_io.write_json(self.to_dict(), Path(path), overwrite=overwrite)

    def describe(self) -> str:
        """The policy in one line of text, all but its provenance; `parse` reads it back."""
        return policy_text(self)

    @classmethod
    def parse(cls, text: str, *, where: str = "policy text") -> "Policy":
        """The policy that a line of `describe` states. Raises: PolicyError naming `where` and the place in the line.

        >>> Policy.parse("T=4 order=1 fresh weight=0.1: gaussian_blur sigma=0.06 linear 1-3").layers[0].magnitude
        0.06
        """
        return cls.from_dict(policy_mapping(text, where=where), where=where)

    def frame_weights(self, progress: float) -> tuple[float, ...]:
        """The loss weight of every frame, the last frame's 1, at that share of the training (0 to 1)."""
        progress = rules.number(progress, at="progress", low=0.0, high=1.0)
        left = 1.0 if self.frame_loss_until == 1.0 else max(0.0, 1.0 - progress / self.frame_loss_until)
        return (*(self.frame_loss_weight * left,) * (self.num_frames - 1), 1.0)

    def draw(
        self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: str | torch.device = "cpu"
    ) -> VideoDraw:
        """Everything random in one batch of videos. Raises: PolicyError where the generator is not a CPU one."""
        return draw_video(self, shape_BCHW, generator=generator, device=torch.device(device))

    def corrupt(
        self,
        images_BCHW: Tensor,
        draw: VideoDraw,
        *,
        masks_BHW: Tensor | None = None,
        donors: Tensor | None = None,
    ) -> Tensor:
        """The videos frames_BTCHW that this draw makes of the images; the last frame is the image, bit for bit.

        Raises: PolicyError as `render`, and where the draw is not this policy's or of other images' shape.
        """
        return corrupt_video(self, images_BCHW, draw, beside=Beside(masks_BHW, donors))

    def render(
        self,
        images_BCHW: Tensor,
        *,
        generator: torch.Generator,
        masks_BHW: Tensor | None = None,
        donors: Tensor | None = None,
        part: Part | None = None,
    ) -> Tensor:
        """Videos frames_BTCHW of the images, by a draw from the generator (a CPU one, wherever the images are).

        images_BCHW: floating-point in [0, 1]; half precision is computed in float32. masks_BHW: bool, true where a
        defect is. donors: other images (N, C, H, W) that ops may take from. `needs` tells what this policy needs.
        part: the images are these of a larger batch, and get the videos that they would get in it.
        Raises: PolicyError where it is not there, or shapes or types do not fit.
        """
        return render_video(self, images_BCHW, generator=generator, beside=Beside(masks_BHW, donors), part=part)

    @property
    def needs(self) -> frozenset[str]:
        """What `render` needs beside the images: any of "masks", "donors"."""
        return frozenset().union(*(layer.definition.needs for layer in self.layers))
