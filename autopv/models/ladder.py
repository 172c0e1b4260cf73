"""What ladder VAEs are made of: stages of features from coarse to fine, residual blocks, stochastic levels, encoders.

Source: Child, arXiv 2011.10650 (VDVAE: bottleneck blocks without normalisation, top-down blocks shared between prior
and posterior); Vahdat and Kautz, arXiv 2007.03898, eq. 4 (posterior relative to the prior).
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.models.labels import ClassEmbedding

# Log scales of prior and posterior stay in here: exp() of them neither overflows nor vanishes in float32.
LOG_SCALE_RANGE = (-6.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Everything at one resolution (`side` features squared): channel counts and how many blocks and levels."""

    side: int
    width: int
    inner: int
    num_levels: int
    encoder_blocks: int = 1
    latent_channels: int = 8


def fitting_stages(stages: Sequence[Stage], *, size_px: int, patch_px: int) -> tuple[Stage, ...]:
    """Those that an image of this size has."""
    return tuple(stage for stage in stages if stage.side <= size_px // patch_px)


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

    def __init__(self, stage: Stage, *, size_px: int, num_outputs: int) -> None:
        super().__init__()
        self.patch_px = size_px // stage.side
        self.paint = Mix(stage.width, num_outputs * self.patch_px**2)

    def forward(self, state: Tensor) -> Tensor:
        frame: Tensor = F.pixel_shuffle(self.paint(F.silu(state)), self.patch_px)
        return frame


class Encoder(nn.Module):
    """Images (several may be stacked as channels) -> features at every stage, coarse to fine."""

    def __init__(self, stages: Sequence[Stage], *, num_inputs: int, patch_px: int) -> None:
        super().__init__()
        self.stages, self.patch_px = tuple(stages), patch_px
        self.enter, self.blocks, self.narrow = encoder_parts(stages, num_inputs=num_inputs, patch_px=patch_px)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        patches = F.pixel_unshuffle(images_BCHW, self.patch_px)
        return encode(self.enter(patches), blocks=self.blocks, narrow=self.narrow, stages=self.stages)

    def flops(self) -> float:
        """Multiply-adds count twice."""
        placed = [(self.enter, self.stages[-1].side)]
        placed += [(blocks, stage.side) for blocks, stage in zip(self.blocks, self.stages, strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.narrow, self.stages[:-1], strict=True)]
        return placed_flops(placed)


def encoder_parts(
    stages: Sequence[Stage], *, num_inputs: int, patch_px: int
) -> tuple[nn.Module, nn.ModuleList, nn.ModuleList]:
    """The convolution that takes the patches in, each stage's blocks, and the changes of width from fine to coarse."""
    enter = nn.Conv2d(num_inputs * patch_px**2, stages[-1].width, 3, padding=1)
    depth = sum(stage.encoder_blocks for stage in stages)
    blocks = nn.ModuleList(
        nn.ModuleList(Block(stage, depth=depth) for _ in range(stage.encoder_blocks)) for stage in stages
    )
    pairs = itertools.pairwise(stages)
    return enter, blocks, nn.ModuleList(change_width(fine.width, coarse.width) for coarse, fine in pairs)


def encode(h: Tensor, *, blocks: nn.ModuleList, narrow: nn.ModuleList, stages: Sequence[Stage]) -> list[Tensor]:
    """What an encoder sees at each stage, coarse to fine."""
    features: list[Tensor] = []
    for i in reversed(range(len(stages))):
        side = stages[i].side
        if h.shape[-1] != side:
            h = narrow[i](F.avg_pool2d(h, h.shape[-1] // side))
        for block in blocks[i]:  # type: ignore[attr-defined]
            h = block(h)
        features.insert(0, h)
    return features


def class_embeddings(stages: Sequence[Stage], *, num_classes: int) -> nn.ModuleList:
    """One embedding of an image's class for each stage; none without classes."""
    return nn.ModuleList(ClassEmbedding(num_classes, width=stage.width) for stage in stages if num_classes > 0)


def embed_classes(embeddings: nn.ModuleList, labels_B: Tensor | None) -> list[Tensor]:
    """What each stage adds to the state, the same at every position; nothing at all without labels."""
    return [] if labels_B is None else [embedding(labels_B)[:, :, None, None] for embedding in embeddings]


def rise(state: Tensor, *, side: int, widen: nn.Module) -> Tensor:
    """The state at a finer stage."""
    return F.interpolate(widen(state), size=side, mode="nearest")


def split_latents(latents: Tensor, *, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """The latents of every level, as maps."""
    parts = torch.split(latents, [math.prod(shape) for shape in shapes], 1)
    return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def placed_flops(placed: Iterable[tuple[nn.Module, int]]) -> float:
    """Of modules that each run at one resolution (features a side): a multiply-add per weight and position counts 2."""
    return float(sum(2 * num_weights(module) * side**2 for module, side in placed))


def change_width(before: int, after: int) -> nn.Module:
    """Features of one width -> of another."""
    return nn.Identity() if before == after else Mix(before, after)


def num_weights(module: nn.Module) -> int:
    """Of convolutions and matrix products: each costs a multiply-add per position."""
    kinds = (nn.Conv2d, nn.Linear, ClassEmbedding)
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, kinds))
