"""A hierarchical VAE whose groups of stochastic levels end in the frames of a pseudo video, most corrupted first.

Levels z_1..z_L run from coarse to fine. Frame t is predicted from the state after level round(t L / T), so the
corrupted frames supervise intermediate states and the image costs the same to sample whatever T is. The posterior
sees all frames.

Source: Chen et al., arXiv 2410.20158 (the pseudo-video idea); Child, arXiv 2011.10650 (VDVAE: top-down blocks without
normalisation, shared between prior and posterior); Vahdat and Kautz, arXiv 2007.03898, eq. 4 (posterior relative to the
prior). Different here: a plain Gaussian likelihood with one learned scale, the last frame's (see `Hvae.loss`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.errors import ModelError
from autopv.models.base import LossTerms, VideoGenerator, register_model

# Log scales of prior and posterior stay in here: exp() of them neither overflows nor vanishes in float32.
LOG_SCALE_RANGE = (-6.0, 3.0)
# The likelihood scale is not worth learning below half a step of 8-bit pixels in [-1, 1]: finer detail is rounding.
MIN_LOG_SCALE = math.log(1 / 255)
# Where the scale starts: the spread of a badly predicted image.
INITIAL_LOG_SCALE = -1.0
# Adam moves a parameter by about the learning rate per step; the scale has to fall by several units within a brief
# training, so it is stored divided by this.
SCALE_GAIN = 10.0
# At full weight from the start the rate silences most latents before the decoder can use them: measured, the samples of
# a brief training are clearly worse without a warm-up, and no better with one twice or six times as long. It is over
# before an annealed look at a ninth of the training, so every look sees the whole bound.
RATE_WARMUP_FRACTION = 0.1
FIRST_RATE_WEIGHT = 0.05


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything at one resolution (`side` features squared): channel counts and how many blocks and levels."""

    side: int
    width: int
    inner: int
    num_levels: int
    encoder_blocks: int = 1
    latent_channels: int = 8


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of the family: stages coarse to fine; an image takes those with side <= size_px / patch_px."""

    sizes_px: tuple[int, ...]
    patch_px: int
    stages: tuple[Stage, ...]


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
        sizes_px=(128, 64),
        patch_px=2,
        stages=(
            Stage(side=1, width=384, inner=192, num_levels=2, latent_channels=16),
            Stage(side=4, width=384, inner=192, num_levels=6, encoder_blocks=3, latent_channels=16),
            Stage(side=8, width=384, inner=192, num_levels=10, encoder_blocks=5, latent_channels=16),
            Stage(side=16, width=256, inner=128, num_levels=12, encoder_blocks=6, latent_channels=16),
            Stage(side=32, width=192, inner=96, num_levels=8, encoder_blocks=4),
            Stage(side=64, width=128, inner=64, num_levels=4, encoder_blocks=2),
        ),
    ),
}


class Mix(nn.Linear):
    """A 1x1 convolution as a matrix product over channels-last memory: half its price at 4x4 features and below."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class Block(nn.Module):
    """x + a bottleneck of 1x1, 3x3, 1x1 convolutions: the 3x3 runs on the few inner channels."""

    def __init__(self, stage: Stage, *, depth: int) -> None:
        super().__init__()
        kernel = 3 if stage.side > 1 else 1
        self.enter = Mix(stage.width, stage.inner)
        self.mix = nn.Conv2d(stage.inner, stage.inner, kernel, padding=kernel // 2)
        self.leave = Mix(stage.inner, stage.width)
        # VDVAE's scaling: the sum over `depth` residual branches starts with the variance of one.
        with torch.no_grad():
            self.leave.weight.mul_(depth**-0.5)
            self.leave.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.mix(F.silu(self.enter(F.silu(x))))
        out: Tensor = x + self.leave(F.silu(h))
        return out


class Level(nn.Module):
    """One stochastic level: prior from the state, posterior from state and encoder features, then a block."""

    def __init__(self, stage: Stage, *, depth: int) -> None:
        super().__init__()
        kernel = 3 if stage.side > 1 else 1
        zc = stage.latent_channels
        self.prior = Mix(stage.width, 2 * zc)
        self.look_state = Mix(stage.width, stage.inner)
        self.look_features = Mix(stage.width, stage.inner, bias=False)
        self.posterior = nn.Conv2d(stage.inner, 2 * zc, kernel, padding=kernel // 2)
        self.take = Mix(zc, stage.width)
        self.block = Block(stage, depth=depth)
        for conv in (self.prior, self.posterior):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.take.weight.mul_(depth**-0.5)

    def draw(self, state: Tensor, *, noise: Tensor) -> Tensor:
        """The next state, with z from the prior."""
        mean, log_scale = self.prior(state).chunk(2, 1)
        z = torch.addcmul(mean, log_scale.clamp(*LOG_SCALE_RANGE).exp(), noise)
        return self.block(state + self.take(z))  # type: ignore[no-any-return]

    def infer(self, state: Tensor, features: Tensor, *, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The next state, with z from the posterior, and the summed KL to the prior.

        With prior N(m, s) and posterior N(m + s d, s r), KL = (d^2 + r^2 - 1) / 2 - log r.
        """
        mean, log_scale = self.prior(state).chunk(2, 1)
        hidden = F.silu(self.look_state(state) + self.look_features(features))
        shift, log_ratio = self.posterior(hidden).chunk(2, 1)
        log_ratio = log_ratio.clamp(*LOG_SCALE_RANGE)
        ratio = log_ratio.exp()
        kl = 0.5 * (shift.square() + ratio.square() - 1).sum() - log_ratio.sum()
        z = torch.addcmul(mean, log_scale.clamp(*LOG_SCALE_RANGE).exp(), torch.addcmul(shift, ratio, noise))
        return self.block(state + self.take(z)), kl


class Head(nn.Module):
    """A state at one resolution -> a frame at full size, each position painting its own patch."""

    def __init__(self, stage: Stage, *, size_px: int, channels: int) -> None:
        super().__init__()
        self.patch_px = size_px // stage.side
        self.paint = Mix(stage.width, channels * self.patch_px**2)

    def forward(self, state: Tensor) -> Tensor:
        frame: Tensor = F.pixel_shuffle(self.paint(F.silu(state)), self.patch_px)
        return frame


@register_model("hvae")
class Hvae(VideoGenerator):
    """The hierarchical VAE; with `num_frames=1` the image VAE itself."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {name: p.sizes_px for name, p in PRESETS.items()}

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int) -> None:
        super().__init__(preset=preset, size_px=size_px, channels=channels, num_frames=num_frames)
        self.patch_px = PRESETS[preset].patch_px
        self.stages = tuple(s for s in PRESETS[preset].stages if s.side <= size_px // self.patch_px)
        plan = [stage for stage in self.stages for _ in range(stage.num_levels)]
        if num_frames > len(plan):
            raise ModelError(
                f"num_frames <= {len(plan)} must hold for hvae preset {preset!r} at {size_px} px (each frame needs its "
                f"own level), but got num_frames={num_frames}: use fewer frames, larger images or a larger preset"
            )
        self.level_stages = tuple(plan)
        # After which level each frame is read off, most corrupted first; the last one after the last level.
        self.read_off = tuple(round(t * len(plan) / num_frames) - 1 for t in range(1, num_frames + 1))
        finest = self.stages[-1]
        self.enter = nn.Conv2d(num_frames * channels * self.patch_px**2, finest.width, 3, padding=1)
        encoder_depth = sum(s.encoder_blocks for s in self.stages)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Block(stage, depth=encoder_depth) for _ in range(stage.encoder_blocks))
            for stage in self.stages
        )
        pairs = list(zip(self.stages[:-1], self.stages[1:], strict=True))
        self.narrow = nn.ModuleList(_change_width(fine.width, coarse.width) for coarse, fine in pairs)
        self.widen = nn.ModuleList(_change_width(coarse.width, fine.width) for coarse, fine in pairs)
        self.start = nn.Parameter(torch.zeros(1, self.stages[0].width, self.stages[0].side, self.stages[0].side))
        self.levels = nn.ModuleList(Level(stage, depth=len(plan)) for stage in plan)
        self.heads = nn.ModuleList(Head(plan[i], size_px=size_px, channels=channels) for i in self.read_off)
        self.scaled_log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE / SCALE_GAIN))
        # One layout throughout, the one `Mix` needs.
        self.to(memory_format=torch.channels_last)

    def loss(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Sequence[float],
        labels: Tensor | None = None,
        generator: torch.Generator,
        progress: float = 1.0,
    ) -> LossTerms:
        """The negative evidence bound in nats per pixel of the image, up to a constant (the rate warming up at first).

        Frame t is Gaussian around its prediction with variance s^2 / w_t, s learned from the last frame alone: a weight
        is thus the precision asked of a frame against that of the image, an easy (blurred) frame cannot buy itself a
        small scale and swamp the loss, and the bound stays one bound. At weight 0 a frame is free.
        """
        self.check_frames(frames_BTCHW, frame_weights_T=frame_weights_T)
        self.check_unlabelled(labels)
        num_images = len(frames_BTCHW)
        frames = frames_BTCHW * 2 - 1
        features = self._encode(frames.flatten(1, 2))
        noise = self._noise(num_images, generator=generator)
        state, rate, errors = self._first_state(num_images), frames.new_zeros(()), []
        for index, level in enumerate(self.levels):
            state = self._rise(state, index=index)
            state, kl = level.infer(state, features[self.level_stages[index].side], noise=noise[index])  # type: ignore[operator]
            rate = rate + kl
            if index in self.read_off:
                t = self.read_off.index(index)
                errors.append(F.mse_loss(self.heads[t](state), frames[:, t]))
        rate = rate / frames[:, -1].numel()
        log_scale = self.log_scale
        precision = torch.exp(-2 * log_scale)
        # Only the last frame's error may move the scale.
        distortion = 0.5 * errors[-1] * precision + log_scale
        frame_loss = sum(
            (0.5 * w * e for w, e in zip(frame_weights_T[:-1], errors[:-1], strict=True)), frames.new_zeros(())
        )
        total = distortion + precision.detach() * frame_loss + _rate_weight(progress) * rate
        terms = {"distortion": distortion, "rate": rate, "log_scale": log_scale}
        terms |= {f"mse_{t + 1}": error for t, error in enumerate(errors)}
        return LossTerms(total, {name: value.detach() for name, value in terms.items()})

    def sample_last_frame(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New images_BCHW in [0, 1]: the likelihood's mean; `temperature` scales every prior's standard deviation."""
        self.check_unlabelled(labels)
        last = self.read_off[-1:]
        return self._sample(num_images, read_off=last, generator=generator, temperature=temperature)[:, 0]

    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        self.check_unlabelled(labels)
        return self._sample(num_images, read_off=self.read_off, generator=generator, temperature=temperature)

    @torch.no_grad()
    def _sample(
        self, num_images: int, *, read_off: Sequence[int], generator: torch.Generator, temperature: float
    ) -> Tensor:
        """The frames_BTCHW that are read off after these levels."""
        state, frames = self._first_state(num_images), []
        noise = self._noise(num_images, generator=generator)
        for index, level in enumerate(self.levels):
            state = level.draw(self._rise(state, index=index), noise=noise[index] * temperature)  # type: ignore[operator]
            if index in read_off:
                frames.append(self.heads[self.read_off.index(index)](state))
        return ((torch.stack(frames, 1) + 1) / 2).clamp(0, 1)

    def flops_per_image(self, num_frames: int) -> float:
        if num_frames != self.num_frames:
            with torch.device("meta"):
                other = Hvae(preset=self.preset, size_px=self.size_px, channels=self.channels, num_frames=num_frames)
            return other.flops_per_image(num_frames)
        stages = self.stages
        placed: list[tuple[nn.Module, int]] = [(self.enter, stages[-1].side)]
        placed += [(blocks, stage.side) for blocks, stage in zip(self.encoder, stages, strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.narrow, stages[:-1], strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.widen, stages[:-1], strict=True)]
        placed += [(level, stage.side) for level, stage in zip(self.levels, self.level_stages, strict=True)]
        placed += [(h, self.level_stages[i].side) for h, i in zip(self.heads, self.read_off, strict=True)]
        # Each of these runs at one resolution, and a convolution costs a multiply-add per weight and position.
        return float(sum(2 * _num_weights(module) * side**2 for module, side in placed))

    @property
    def log_scale(self) -> Tensor:
        """Log of the last frame's likelihood scale, images in [-1, 1]."""
        return (SCALE_GAIN * self.scaled_log_scale).clamp(min=MIN_LOG_SCALE)

    def _encode(self, frames_BCHW: Tensor) -> dict[int, Tensor]:
        h = self.enter(F.pixel_unshuffle(frames_BCHW, self.patch_px))
        features = {}
        for i in reversed(range(len(self.stages))):
            side = self.stages[i].side
            if h.shape[-1] != side:
                h = self.narrow[i](F.avg_pool2d(h, h.shape[-1] // side))
            for block in self.encoder[i]:  # type: ignore[attr-defined]
                h = block(h)
            features[side] = h
        return features

    def _first_state(self, num_images: int) -> Tensor:
        return self.start.expand(num_images, -1, -1, -1)

    def _rise(self, state: Tensor, *, index: int) -> Tensor:
        """The state at the resolution of level `index`."""
        stage = self.level_stages[index]
        if state.shape[-1] == stage.side:
            return state
        widen = self.widen[self.stages.index(stage) - 1]
        return F.interpolate(widen(state), size=stage.side, mode="nearest")

    def _noise(self, num_images: int, *, generator: torch.Generator) -> list[Tensor]:
        """Standard normal noise for every level, from one draw."""
        shapes = [(s.latent_channels, s.side, s.side) for s in self.level_stages]
        sizes = [math.prod(shape) for shape in shapes]
        noise = torch.randn(num_images, sum(sizes), generator=generator, device=self.device)
        return [part.view(-1, *shape) for part, shape in zip(torch.split(noise, sizes, 1), shapes, strict=True)]


def _rate_weight(progress: float) -> float:
    return min(1.0, FIRST_RATE_WEIGHT + (1 - FIRST_RATE_WEIGHT) * progress / RATE_WARMUP_FRACTION)


def _change_width(before: int, after: int) -> nn.Module:
    return nn.Identity() if before == after else Mix(before, after)


def _num_weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear))
