"""A generator whose generation path is the pseudo video: one network makes each frame from the one before.

Step t looks at the frame made so far, draws z_t from coarse to fine, and adds what it paints to that frame:
p(frame t | frame t-1, z_t), with weights that all steps share but for offsets that say which one it is. The
posterior sees all frames. With one frame it is a ladder VAE.

A network that is trained to go on from true frames meets its own at sampling time, and its errors add up. Here it never
sees a true frame: in training too each step goes on from what the steps before made of the posterior's z, gradients
pass through all of them, and the corrupted frames say what should have come out. So what sampling meets differs from
training only as in any VAE, by prior and posterior. Sampling takes as many passes as there are frames.

An image's class, where the model has classes, is told to every step, at every stage.

Source: Gregor et al., arXiv 1502.04623 (DRAW: a canvas to which steps with shared weights add, every one with latents
of its own); Chen et al., arXiv 2410.20158 (the pseudo video). The parts are hvae's (ladder.py).
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.models.base import VideoGenerator, register_model
from autopv.models.ladder import (
    Encoder,
    Head,
    Level,
    Stage,
    change_width,
    class_embeddings,
    embed_classes,
    fitting_stages,
    placed_flops,
    rise,
    split_latents,
)
from autopv.models.likelihood import build_likelihood, pseudo_frame_score


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of the family: the stages of every step, coarse to fine; an image takes those that fit it."""

    sizes_px: tuple[int, ...]
    patch_px: int
    stages: tuple[Stage, ...]


PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        sizes_px=(16, 8, 32),
        patch_px=2,
        stages=(
            Stage(side=1, width=64, inner=32, num_levels=1),
            Stage(side=2, width=64, inner=32, num_levels=1),
            Stage(side=4, width=64, inner=32, num_levels=2),
            Stage(side=8, width=64, inner=32, num_levels=2),
            Stage(side=16, width=48, inner=24, num_levels=1),
        ),
    ),
    "small": Preset(
        sizes_px=(64, 32),
        patch_px=2,
        stages=(
            Stage(side=1, width=192, inner=96, num_levels=1, latent_channels=16),
            Stage(side=4, width=192, inner=96, num_levels=2, encoder_blocks=2, latent_channels=16),
            Stage(side=8, width=192, inner=96, num_levels=3, encoder_blocks=2, latent_channels=16),
            Stage(side=16, width=128, inner=64, num_levels=3, encoder_blocks=2),
            Stage(side=32, width=96, inner=48, num_levels=2),
        ),
    ),
    "base": Preset(
        sizes_px=(128, 64, 256),
        patch_px=2,
        stages=(
            Stage(side=1, width=384, inner=192, num_levels=1, latent_channels=16),
            Stage(side=4, width=384, inner=192, num_levels=3, encoder_blocks=2, latent_channels=16),
            Stage(side=8, width=384, inner=192, num_levels=4, encoder_blocks=3, latent_channels=16),
            Stage(side=16, width=256, inner=128, num_levels=4, encoder_blocks=3),
            Stage(side=32, width=192, inner=96, num_levels=3, encoder_blocks=2),
            Stage(side=64, width=128, inner=64, num_levels=2, encoder_blocks=1),
            Stage(side=128, width=96, inner=48, num_levels=1, encoder_blocks=1),
        ),
    ),
}

PassLevel = Callable[[int, Level, Tensor], Tensor]
"""Index of the level, the level, the state -> the next state."""


@register_model("refine")
class Refine(VideoGenerator):
    """The refining generator; with `num_frames=1` a ladder VAE."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {name: p.sizes_px for name, p in PRESETS.items()}
    takes_classes: ClassVar[bool] = True

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        shape = {"size_px": size_px, "channels": channels, "num_frames": num_frames}
        super().__init__(preset=preset, **shape, num_classes=num_classes)
        patch_px = PRESETS[preset].patch_px
        stages = fitting_stages(PRESETS[preset].stages, size_px=size_px, patch_px=patch_px)
        plan = [stage for stage in stages for _ in range(stage.num_levels)]
        self.stages = stages
        self._stage_of_level = tuple(stages.index(stage) for stage in plan)
        self._latent_shapes = tuple((stage.latent_channels, stage.side, stage.side) for stage in plan)
        self.likelihood = build_likelihood("gaussian", channels=channels)
        self.watch = Encoder(stages, num_inputs=num_frames * channels, patch_px=patch_px)
        # The first step has nothing to look at.
        self.look = Encoder(stages, num_inputs=channels, patch_px=patch_px) if num_frames > 1 else None
        pairs = itertools.pairwise(stages)
        self.widen = nn.ModuleList(change_width(coarse.width, fine.width) for coarse, fine in pairs)
        # Which step it is: the one thing that steps do not share. At every stage, or long videos are learnt slowly.
        self.start = nn.ParameterList(torch.zeros(num_frames, stage.width, 1, 1) for stage in stages)
        self.levels = nn.ModuleList(Level(stage, depth=len(plan)) for stage in plan)
        self.head = Head(stages[-1], size_px=size_px, num_outputs=channels)
        # What all steps paint together starts as large as what one would: eight times as much was hard to unlearn.
        with torch.no_grad():
            self.head.paint.weight.div_(num_frames)
            self.head.paint.bias.div_(num_frames)
        self.of_class = class_embeddings(stages, num_classes=num_classes)
        self.to(memory_format=torch.channels_last)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """`latents` (N, T x all levels' sizes): standard normal noise for every level of every step, from one draw."""
        num_latents = self.num_frames * sum(math.prod(shape) for shape in self._latent_shapes)
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

        As in hvae, frame t < T is Gaussian around what step t made, with variance s^2 / w_t, where s is the scale that
        the last frame alone moves.
        """
        frames = frames_BTCHW * 2 - 1
        of_class = embed_classes(self.of_class, labels_B)
        features, rates = self.watch(frames.flatten(1, 2)), []
        canvas, errors = frames.new_zeros(frames[:, 0].shape), []
        for t, latents in enumerate(self._split_latents(noise["latents"])):

            def infer(index: int, level: Level, state: Tensor, latents: list[Tensor] = latents) -> Tensor:
                state, kl = level.infer(state, features[self._stage_of_level[index]], noise=latents[index])
                rates.append(kl)
                return state

            canvas = self._step(canvas, t=t, pass_level=infer, of_class=of_class)
            errors.append(F.mse_loss(canvas, frames[:, t]))
        score, _, log_scale = self.likelihood.score(canvas, frames[:, -1])
        rate = torch.stack(rates).sum() / frames[:, -1].numel()
        total = score + kl_weight * rate
        for weight, error in zip(frame_weights_T[:-1], errors[:-1], strict=True):
            total = total + weight * pseudo_frame_score(error, log_scale=log_scale)
        terms = {"distortion": score, "rate": rate, "log_scale": log_scale}
        return total, terms | {f"mse_{t + 1}": error for t, error in enumerate(errors)}

    @torch.no_grad()
    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New videos, a pass for each frame; `temperature` scales every prior's standard deviation."""
        of_class = embed_classes(
            self.of_class, self.labels_to_sample(labels, num_images=num_images, generator=generator)
        )
        canvas = torch.zeros(num_images, self.channels, self.size_px, self.size_px, device=self.device)
        frames = []
        noise = self.draw_noise(num_images, generator=generator)["latents"]
        for t, latents in enumerate(self._split_latents(noise)):

            def draw(index: int, level: Level, state: Tensor, latents: list[Tensor] = latents) -> Tensor:
                return level.draw(state, noise=latents[index] * temperature)

            canvas = self._step(canvas, t=t, pass_level=draw, of_class=of_class)
            frames.append(canvas)
        return ((torch.stack(frames, 1) + 1) / 2).clamp(0, 1)

    def flops(self) -> float:
        placed: list[tuple[nn.Module, int]] = [(self.head, self.stages[-1].side)]
        placed += [(conv, stage.side) for conv, stage in zip(self.widen, self.stages[:-1], strict=True)]
        placed += [(level, self.stages[i].side) for level, i in zip(self.levels, self._stage_of_level, strict=True)]
        looks = 0.0 if self.look is None else (self.num_frames - 1) * self.look.flops()
        classes = sum(placed_flops([(embedding, 1)]) for embedding in self.of_class)
        return self.watch.flops() + looks + self.num_frames * placed_flops(placed) + classes

    def _step(self, canvas: Tensor, *, t: int, pass_level: PassLevel, of_class: Sequence[Tensor]) -> Tensor:
        """The frame after step t, from the one before."""
        seen = None if self.look is None or t == 0 else self.look(canvas)
        side = self.stages[0].side
        state = self.start[0][t].expand(len(canvas), -1, side, side)
        stage = 0
        if seen is not None:
            state = state + seen[0]
        if of_class:
            state = state + of_class[0]
        for index, level in enumerate(self.levels):
            if self._stage_of_level[index] != stage:
                stage += 1
                state = rise(state, side=self.stages[stage].side, widen=self.widen[stage - 1]) + self.start[stage][t]
                if seen is not None:
                    state = state + seen[stage]
                if of_class:
                    state = state + of_class[stage]
            state = pass_level(index, level, state)  # type: ignore[arg-type]
        painted: Tensor = canvas + self.head(state).float()
        return painted

    def _split_latents(self, latents: Tensor) -> list[list[Tensor]]:
        """Step -> level -> latents as maps."""
        return [split_latents(part, shapes=self._latent_shapes) for part in latents.chunk(self.num_frames, 1)]
