"""What every generator family promises, and the registry of families."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from autopv.errors import ModelError, nearest
from autopv.models.labels import UNLABELLED, check_labels, draw_labels
from autopv.models.sampling import Sampling


@dataclass(frozen=True)
class LossTerms:
    """The scalar to minimise, and the named parts it is made of (detached scalars, for reading only)."""

    total_loss: Tensor
    terms: Mapping[str, Tensor]


class VideoGenerator(nn.Module, ABC):
    """A generator of pseudo videos whose last frame is the image; with one frame it is the plain image generator.

    A family is a subclass that defines `draw_noise`, `loss_terms`, `sample_frames` and `flops`, names its presets in
    `preset_sizes_px` (the smallest preset first; the first size of each is its default), and takes
    `preset, size_px, channels, num_frames` as keywords, and `num_classes` where it sets `takes_classes`. Whatever else
    it is made of, these hold, and a subclass of `autopv.testing.model_suite.ModelSuite` tests them:

    - Images and frames are float32 in [0, 1] at every door; the last frame is the image. Labels are int64, from 0 on,
      and -1 for an image whose class is not known.
    - Chance enters by `draw_noise` and by the `generator` of sampling, both on the model's `device`. So no dropout.
    - The loss is a mean over images, because a batch may be taken in parts. So no statistics over a batch.
    - A model is built from its keywords alone, also on torch's `meta` device, where its cost is asked for; initial
      weights come from torch's global generator, which is seeded for that. All that samples depend on is parameters
      (trained, and averaged for sampling) and buffers (as they stand), and goes by `state_dict`, but `class_counts`.

    Families of autopv are registered by `register_model`, those of other packages by an entry point (`installed.py`).
    """

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]]
    plan_defaults: ClassVar[Mapping[str, float]] = {}
    """Settings of the training plan that are better for this family than the plan's own defaults."""
    sampling: Sampling | None = None
    """How it is sampled, where that takes many passes; can be set to another one."""
    takes_classes: ClassVar[bool] = False
    """Whether the class of an image can be a condition; without classes a model is the same to the bit."""
    class_counts: Tensor
    """Of a model with classes: the training images of each, then those without; what is sampled without labels has
    their shares. Can be set; a checkpoint's loader does."""

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        super().__init__()
        family = type(self).__name__
        if preset not in self.preset_sizes_px:
            raise ModelError(f"{family} has no preset {preset!r}.{nearest(preset, self.preset_sizes_px)}")
        sizes = self.preset_sizes_px[preset]
        if size_px not in sizes:
            raise ModelError(
                f"size_px of {family} preset {preset!r} must be one of {', '.join(map(str, sorted(sizes)))}, "
                f"but got {size_px}: load the images at one of these sizes, or choose another preset"
            )
        if channels < 1:
            raise ModelError(f"channels >= 1 must hold, but got channels={channels}")
        if num_frames < 1:
            raise ModelError(f"num_frames >= 1 must hold, but got num_frames={num_frames}")
        most = self.max_frames(preset=preset, size_px=size_px)
        if most is not None and num_frames > most:
            raise ModelError(
                f"num_frames <= {most} must hold for {family} preset {preset!r} at {size_px} px, but got "
                f"num_frames={num_frames}: use fewer frames, larger images or a larger preset"
            )
        self.preset = preset
        self.size_px = size_px
        self.channels = channels
        self.num_frames = num_frames
        if num_classes < 0:
            raise ModelError(f"num_classes >= 0 must hold, but got num_classes={num_classes}")
        if num_classes > 0 and not self.takes_classes:
            raise ModelError(f"{family} knows no classes, but got num_classes={num_classes}: train it without")
        self.num_classes = num_classes
        if num_classes > 0:
            self.register_buffer("class_counts", torch.tensor([1] * num_classes + [0]), persistent=False)

    def loss(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Sequence[float],
        labels: Tensor | None = None,
        generator: torch.Generator,
        kl_weight: float = 1.0,
    ) -> LossTerms:
        """The training loss of one batch of videos; `frame_weights_T` weighs each frame's part, the last one's is 1.

        `kl_weight` says how often the rate counts (the divergence of the latents from their prior) in families that
        have one; at 1 the loss is the bound they stand for. Without labels no image's class is known.

        Raises:
            ModelError: the videos, weights or labels do not fit the model.
        """
        self.check_frames(frames_BTCHW, frame_weights_T=frame_weights_T)
        total, terms = self.loss_terms(
            frames_BTCHW,
            frame_weights_T=frames_BTCHW.new_tensor(frame_weights_T),
            noise=self.draw_noise(len(frames_BTCHW), generator=generator),
            kl_weight=frames_BTCHW.new_tensor(kl_weight),
            **self.condition(labels, num_images=len(frames_BTCHW)),
        )
        return LossTerms(total, {name: value.detach() for name, value in terms.items()})

    @classmethod
    def max_frames(cls, *, preset: str, size_px: int) -> int | None:
        """The longest video that a preset can be built for at this size; None: any."""
        del preset, size_px
        return None

    @abstractmethod
    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Everything that `loss_terms` leaves to chance, in float32, each tensor with the images first."""

    @abstractmethod
    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss and its named parts, scalars: `loss` of checked input without chance.

        A function of tensors alone, so that it can be compiled as one graph, and a mean over images, so that a batch
        can be taken in parts. `labels_B` is given only to a model with classes.
        """

    def sample_last_frame(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New images_BCHW in [0, 1]; nothing is computed that the last frame does not need.

        Here the last of `sample_frames`, for families in which it needs all others.
        """
        return self.sample_frames(num_images, labels=labels, generator=generator, temperature=temperature)[:, -1]

    @abstractmethod
    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New videos frames_BTCHW in [0, 1]; the last frames are those of `sample_last_frame`, bit for bit."""

    @abstractmethod
    def flops(self) -> float:
        """Forward FLOPs of `loss` per image (multiply-add = 2; a step costs 3x)."""

    def flops_per_image(self, num_frames: int) -> float:
        """The same if the model had that many frames."""
        if num_frames == self.num_frames:
            return self.flops()
        shape = {"size_px": self.size_px, "channels": self.channels, "num_frames": num_frames}
        with torch.device("meta"):
            other = type(self)(preset=self.preset, **shape, **_of_classes(self.num_classes))
        return other.flops()

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    def check_frames(self, frames_BTCHW: Tensor, *, frame_weights_T: Sequence[float]) -> None:
        """Nothing, if the videos and weights fit this model.

        Raises:
            ModelError: another shape, another number of weights, or a last weight other than 1.
        """
        expected = (self.num_frames, self.channels, self.size_px, self.size_px)
        if tuple(frames_BTCHW.shape[1:]) != expected:
            raise ModelError(
                f"frames_BTCHW must have the shape (B, {', '.join(map(str, expected))}) this model was built for, "
                f"but got {tuple(frames_BTCHW.shape)}"
            )
        if len(frame_weights_T) != self.num_frames:
            raise ModelError(
                f"frame_weights_T must hold one weight per frame ({self.num_frames}), but got {len(frame_weights_T)}"
            )
        if min(frame_weights_T) < 0 or frame_weights_T[-1] != 1.0:
            raise ModelError(
                f"frame weights must be >= 0 and the last one 1, but got frame_weights_T={list(frame_weights_T)}"
            )

    def check_unlabelled(self, labels: Tensor | None) -> None:
        """Nothing, if no labels were given.

        Raises:
            ModelError: labels were given to a model that would ignore them.
        """
        if labels is not None:
            raise ModelError(
                f"this {type(self).__name__} was built without classes and does not use labels, but got "
                f"{tuple(labels.shape)} of them: leave labels out"
            )

    def check_guidance(self) -> None:
        """Nothing, if sampling is not to be guided, or there are classes to go towards.

        Raises:
            ModelError: guidance in a model without classes.
        """
        if self.sampling is not None and self.sampling.guidance != 1 and self.num_classes == 0:
            raise ModelError(
                f"guidance goes towards a class, but this model was built without classes and got "
                f"guidance={self.sampling.guidance}: leave it at 1"
            )

    def condition(self, labels: Tensor | None, *, num_images: int) -> dict[str, Tensor]:
        """What `loss_terms` takes besides, on the model's device: `labels_B`, of a model with classes.

        Raises:
            ModelError: the labels do not fit the images, or the model has no classes.
        """
        if self.num_classes == 0:
            self.check_unlabelled(labels)
            return {}
        if labels is None:
            return {"labels_B": torch.full((num_images,), UNLABELLED, device=self.device)}
        check_labels(labels, num_images=num_images, num_classes=self.num_classes)
        return {"labels_B": labels.to(self.device)}

    def labels_to_sample(self, labels: Tensor | None, *, num_images: int, generator: torch.Generator) -> Tensor | None:
        """The given labels_B, checked, or such as `class_counts` makes likely; None of a model without classes.

        Raises:
            ModelError: the labels do not fit the images, or the model has no classes.
        """
        if labels is None and self.num_classes > 0:
            return draw_labels(self.class_counts, num_images, generator=generator)
        return self.condition(labels, num_images=num_images).get("labels_B")


Family = TypeVar("Family", bound=type[VideoGenerator])
_FAMILIES: dict[str, type[VideoGenerator]] = {}


def register_model(name: str) -> Callable[[Family], Family]:
    """A class decorator that makes a family buildable under `name`.

    Raises:
        ModelError: the name is taken.
    """

    def register(family: Family) -> Family:
        if name in _FAMILIES:
            raise ModelError(f"model names must be unique, but {name!r} is already {_FAMILIES[name].__name__}")
        _FAMILIES[name] = family
        return family

    return register


def build_model(
    name: str, *, preset: str, size_px: int, channels: int, num_frames: int, seed: int, num_classes: int = 0
) -> VideoGenerator:
    """A freshly initialised model on the CPU: equal arguments give equal weights, whatever was drawn before.

    Raises:
        ModelError: unknown name or preset (with the nearest one), a shape that the preset cannot serve, or classes for
            a family that knows none.
    """
    family = _family(name)
    if num_classes > 0 and not family.takes_classes:
        able = [other for other, kind in sorted(_registered().items()) if kind.takes_classes]
        raise ModelError(f"model {name!r} knows no classes: train it without, or take one of {', '.join(able)}")
    # torch.nn initialises from the global generator: fork it, so that neither side sees the other.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {"size_px": size_px, "channels": channels, "num_frames": num_frames}
        return family(preset=preset, **shape, **_of_classes(num_classes))


def model_names() -> tuple[str, ...]:
    """Every name `build_model` knows, sorted; packages that offer some are not imported for that."""
    from autopv.models.installed import offered_families

    return tuple(sorted({*_registered(), *offered_families()}))


def model_package(name: str) -> str | None:
    """Name and version of the installed package that offers a family; None for autopv's own and unknown ones."""
    from autopv.models.installed import offered_families, package_of

    return next((package_of(point) for point in offered_families().get(name, [])), None)


def check_installed(name: str, *, package: str | None, where: str) -> None:
    """Nothing, if there is a family of that name here. package: where it came from, as `model_package` told.

    Raises:
        ModelError: there is none; says what to install.
    """
    if name not in model_names():
        raise ModelError(
            f"{where} needs the model family {name!r}, which is not installed here (families here: "
            f"{', '.join(model_names())}): install {f'the package {package}' if package else 'its package'}"
        )


def preset_names(name: str) -> tuple[str, ...]:
    """The presets of one family, smallest first.

    Raises:
        ModelError: unknown family.
    """
    return tuple(_family(name).preset_sizes_px)


def default_size_px(name: str, preset: str) -> int:
    """The side of the images that a preset is meant for.

    Raises:
        ModelError: unknown family or preset.
    """
    sizes = _family(name).preset_sizes_px
    if preset not in sizes:
        raise ModelError(f"model {name!r} has no preset {preset!r}.{nearest(preset, sizes)}")
    return sizes[preset][0]


def max_frames(name: str, *, preset: str, size_px: int) -> int | None:
    """The longest video that a preset of a family can be built for at this size; None: any.

    Raises:
        ModelError: unknown family.
    """
    return _family(name).max_frames(preset=preset, size_px=size_px)


def plan_defaults(name: str) -> Mapping[str, float]:
    """The settings of the training plan that suit a family better than the plan's own.

    Raises:
        ModelError: unknown family.
    """
    return _family(name).plan_defaults


def _of_classes(num_classes: int) -> dict[str, int]:
    # A family that knows no classes need not take the keyword.
    return {"num_classes": num_classes} if num_classes else {}


def _family(name: str) -> type[VideoGenerator]:
    from autopv.models.installed import ENTRY_POINT_GROUP, load_installed

    registered = _registered().get(name)
    family = load_installed(name, registered=registered) or registered
    if family is None:
        raise ModelError(
            f"unknown model {name!r}.{nearest(name, model_names())} One of another package is known once that package "
            f"is installed (entry points {ENTRY_POINT_GROUP}; `autopv doctor` lists them)"
        )
    return family


def _registered() -> dict[str, type[VideoGenerator]]:
    # Imported here, not above: families import this module.
    import autopv.models.diffusion
    import autopv.models.hvae
    import autopv.models.refine
    import autopv.models.vq  # noqa: F401

    return _FAMILIES
