"""A hierarchical VAE whose groups of stochastic levels end in the frames of a pseudo video, most corrupted first.

Levels z_1..z_L run from coarse to fine. Frame t is predicted from the state after level round(t L / T), so the
corrupted frames supervise intermediate states and the image costs the same to sample whatever T is. The posterior
sees all frames.

Source: Chen et al., arXiv 2410.20158 (the pseudo-video idea); Child, arXiv 2011.10650 (VDVAE), of which ladder.py
holds the parts. Different here: the likelihood is a Gaussian of one learned scale by default, the last frame's, to
which the other frames are held (see `Hvae.loss_terms`); VDVAE's mixture of logistics can be had instead.

An image's class, where the model has classes, is added to the top-down state at every stage: prior and posterior know.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.models.base import VideoGenerator, register_model
from autopv.models.ladder import (
    Head,
    Level,
    Stage,
    change_width,
    class_embeddings,
    embed_classes,
    encode,
    encoder_parts,
    fitting_stages,
    placed_flops,
    rise,
    split_latents,
)
from autopv.models.likelihood import build_likelihood, pseudo_frame_score


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of the family: stages coarse to fine; an image takes those with side <= size_px / patch_px."""

    sizes_px: tuple[int, ...]
    patch_px: int
    stages: tuple[Stage, ...]
    likelihood: str = "gaussian"
    # After which share of the levels the last pseudo frame is read off; None: frames share the levels evenly.
    frame_levels: float | None = None


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        sizes_px=(16, 8, 32),
        patch_px=2,
        stages=(
            Stage(side=1, width=64, inner=32, num_levels=1),
            Stage(side=2, width=64, inner=32, num_levels=2),
            Stage(side=4, width=64, inner=32, num_levels=3),
            Stage(side=8, width=64, inner=32, num_levels=3),
            Stage(side=16, width=48, inner=24, num_levels=2),
        ),
    ),
    "small": Preset(
        sizes_px=(64, 32),
        patch_px=2,
        stages=(
            Stage(side=1, width=192, inner=96, num_levels=2, latent_channels=16),
            Stage(side=4, width=192, inner=96, num_levels=4, encoder_blocks=2, latent_channels=16),
            Stage(side=8, width=192, inner=96, num_levels=6, encoder_blocks=3, latent_channels=16),
            Stage(side=16, width=128, inner=64, num_levels=6, encoder_blocks=3),
            Stage(side=32, width=96, inner=48, num_levels=4, encoder_blocks=2),
        ),
    ),
    "base": Preset(
        sizes_px=(128, 64, 256),
        patch_px=2,
        stages=(
            Stage(side=1, width=384, inner=192, num_levels=2, latent_channels=16),
            Stage(side=4, width=384, inner=192, num_levels=6, encoder_blocks=3, latent_channels=16),
            Stage(side=8, width=384, inner=192, num_levels=10, encoder_blocks=5, latent_channels=16),
            Stage(side=16, width=256, inner=128, num_levels=12, encoder_blocks=6, latent_channels=16),
            Stage(side=32, width=192, inner=96, num_levels=8, encoder_blocks=4),
            Stage(side=64, width=128, inner=64, num_levels=4, encoder_blocks=2),
            Stage(side=128, width=96, inner=48, num_levels=2, encoder_blocks=1),
        ),
    ),
}


@register_model("hvae")
class Hvae(VideoGenerator):
    """The hierarchical VAE; with `num_frames=1` the image VAE itself."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {name: p.sizes_px for name, p in PRESETS.items()}
    takes_classes: ClassVar[bool] = True

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        shape = {"size_px": size_px, "channels": channels, "num_frames": num_frames}
        super().__init__(preset=preset, **shape, num_classes=num_classes)
        self.patch_px = PRESETS[preset].patch_px
        self.stages = _stages(preset, size_px=size_px)
        plan = [stage for stage in self.stages for _ in range(stage.num_levels)]
        self.level_stages = tuple(plan)
        # Plain numbers for the loop over levels: a compiler takes them as constants.
        self._stage_of_level = tuple(self.stages.index(stage) for stage in plan)
        self._latent_shapes = tuple((stage.latent_channels, stage.side, stage.side) for stage in plan)
        self.read_off = _read_off(num_frames, num_levels=len(plan), share=PRESETS[preset].frame_levels)
        self.likelihood = build_likelihood(PRESETS[preset].likelihood, channels=channels)
        self.enter, self.encoder, self.narrow = encoder_parts(
            self.stages, num_inputs=num_frames * channels, patch_px=self.patch_px
        )
        pairs = itertools.pairwise(self.stages)
        self.widen = nn.ModuleList(change_width(coarse.width, fine.width) for coarse, fine in pairs)
        self.start = nn.Parameter(torch.zeros(1, self.stages[0].width, self.stages[0].side, self.stages[0].side))
        self.levels = nn.ModuleList(Level(stage, depth=len(plan)) for stage in plan)
        outputs = [channels] * (num_frames - 1) + [self.likelihood.num_outputs]
        self.heads = nn.ModuleList(
            Head(plan[i], size_px=size_px, num_outputs=n) for i, n in zip(self.read_off, outputs, strict=True)
        )
        self.of_class = class_embeddings(self.stages, num_classes=num_classes)
        # One layout throughout, the one `Mix` needs.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def max_frames(cls, *, preset: str, size_px: int) -> int:
        """As many as levels: each frame needs its own."""
        return sum(stage.num_levels for stage in _stages(preset, size_px=size_px))

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """`latents` (N, all levels' sizes): standard normal noise for every level, from one draw."""
        num_latents = sum(math.prod(shape) for shape in self._latent_shapes)
        return {"latents": torch.randn(num_images, num_latents, generator=generator, device=self.device)}

    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The negative evidence bound in nats per channel value of the image, up to a constant, if `kl_weight` is 1.

        Frame t < T is Gaussian around its prediction with variance s^2 / w_t, s the likelihood's scale, which the last
        frame alone moves: a weight is thus the precision asked of a frame against that of the image, an easy (blurred)
        frame cannot buy itself a small scale and swamp the loss, and the bound stays one; a frame of weight 0 is free.
        """
        frames = frames_BTCHW * 2 - 1
        features, latents = self._encode(frames.flatten(1, 2)), self._split_latents(noise["latents"])
        of_class = embed_classes(self.of_class, labels_B)
        state, rates = self._first_state(len(frames)), []
        painted: list[Tensor] = []
        for index, level in enumerate(self.levels):
            state = self._enter(state, index=index, of_class=of_class)
            state, kl = level.infer(state, features[self._stage_of_level[index]], noise=latents[index])  # type: ignore[operator]
            rates.append(kl)
            if index in self.read_off:
                painted.append(self.heads[len(painted)](state).float())
        score, error, log_scale = self.likelihood.score(painted[-1], frames[:, -1])
        errors = [F.mse_loss(frame, frames[:, t]) for t, frame in enumerate(painted[:-1])]
        kl_L = torch.stack(rates) / frames[:, -1].numel()
        total = score + self._weighted_rate(kl_L, kl_weight=kl_weight)
        for weight, frame_error in zip(frame_weights_T[:-1], errors, strict=True):
            total = total + weight * self._frame_score(frame_error, log_scale=log_scale)
        terms = {"distortion": score, "rate": kl_L.sum(), "log_scale": log_scale}
        return total, terms | {f"mse_{t + 1}": error for t, error in enumerate((*errors, error))}

    def _weighted_rate(self, kl_L: Tensor, *, kl_weight: Tensor) -> Tensor:
        """The levels' rates (coarse to fine) as they count in the loss: all alike."""
        return kl_weight * kl_L.sum()

    def _frame_score(self, error: Tensor, *, log_scale: Tensor) -> Tensor:
        """What a pseudo frame's squared error costs at weight 1."""
        return pseudo_frame_score(error, log_scale=log_scale)

    def sample_last_frame(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New images_BCHW in [0, 1]; `temperature` scales every prior's standard deviation."""
        last = self.read_off[-1:]
        return self._sample(num_images, labels, read_off=last, generator=generator, temperature=temperature)[:, 0]

    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        every = self.read_off
        return self._sample(num_images, labels, read_off=every, generator=generator, temperature=temperature)

    @torch.no_grad()
    def _sample(
        self,
        num_images: int,
        labels: Tensor | None,
        *,
        read_off: tuple[int, ...],
        generator: torch.Generator,
        temperature: float,
    ) -> Tensor:
        """The frames_BTCHW read off after these levels."""
        of_class = embed_classes(
            self.of_class, self.labels_to_sample(labels, num_images=num_images, generator=generator)
        )
        state, frames = self._first_state(num_images), []
        latents = self._split_latents(self.draw_noise(num_images, generator=generator)["latents"])
        for index, level in enumerate(self.levels):
            state = self._enter(state, index=index, of_class=of_class)
            state = level.draw(state, noise=latents[index] * temperature)  # type: ignore[operator]
            if index in read_off:
                frames.append(self.heads[self.read_off.index(index)](state))
        uniforms_BUHW = torch.rand(
            (num_images, self.likelihood.num_uniforms, self.size_px, self.size_px),
            generator=generator,
            device=self.device,
        )
        frames[-1] = self.likelihood.draw(frames[-1], uniforms_BUHW)
        return ((torch.stack(frames, 1) + 1) / 2).clamp(0, 1)

    def flops(self) -> float:
        stages = self.stages
        placed: list[tuple[nn.Module, int]] = [(self.enter, stages[-1].side)]
        placed += [(blocks, stage.side) for blocks, stage in zip(self.encoder, stages, strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.narrow, stages[:-1], strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.widen, stages[:-1], strict=True)]
        placed += [(level, stage.side) for level, stage in zip(self.levels, self.level_stages, strict=True)]
        placed += [(h, self.level_stages[i].side) for h, i in zip(self.heads, self.read_off, strict=True)]
        placed += [(embedding, 1) for embedding in self.of_class]
        return placed_flops(placed)

    def _encode(self, frames_BCHW: Tensor) -> list[Tensor]:
        """What the encoder sees at each stage, coarse to fine."""
        patches = F.pixel_unshuffle(frames_BCHW, self.patch_px)
        return encode(self.enter(patches), blocks=self.encoder, narrow=self.narrow, stages=self.stages)

    def _first_state(self, num_images: int) -> Tensor:
        return self.start.expand(num_images, -1, -1, -1)

    def _enter(self, state: Tensor, *, index: int, of_class: Sequence[Tensor]) -> Tensor:
        """The state before level `index`: at its resolution, told the class where a stage begins."""
        stage = self._stage_of_level[index]
        if index > 0 and stage == self._stage_of_level[index - 1]:
            return state
        if index > 0:
            state = rise(state, side=self.stages[stage].side, widen=self.widen[stage - 1])
        return state + of_class[stage] if of_class else state

    def _split_latents(self, latents: Tensor) -> list[Tensor]:
        return split_latents(latents, shapes=self._latent_shapes)


def _stages(preset: str, *, size_px: int) -> tuple[Stage, ...]:
    return fitting_stages(PRESETS[preset].stages, size_px=size_px, patch_px=PRESETS[preset].patch_px)


def _read_off(num_frames: int, *, num_levels: int, share: float | None) -> tuple[int, ...]:
    """After which level each frame is read off, most corrupted first; the last one after the last level."""
    if share is None or num_frames == 1:
        return tuple(round(t * num_levels / num_frames) - 1 for t in range(1, num_frames + 1))
    last = min(num_levels - 1, max(num_frames - 1, round(share * num_levels)))
    early = [round(t * last / (num_frames - 1)) - 1 for t in range(1, num_frames)]
    return (*early, num_levels - 1)
