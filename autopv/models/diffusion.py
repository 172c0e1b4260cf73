"""A diffusion model of images in pixel space that tells the frames of a pseudo video beside, or makes them all.

With one frame it is the EDM image model. With more, the image alone is noised and denoised, and the same network tells
from it what the corrupted frames are: they supervise every noise level, and since sampling never looks at them it costs
what one frame costs but for a wider last convolution, and their errors cannot spoil the image. Told frames are what is
expected of them given the image, so without the chance that a corruption may hold.

The presets `-joint` model whole videos instead: all frames are channels that share one noise level and are denoised
together. That is the usual video model, and did harm wherever it was tried (experiments/effect).

Source: Karras et al., arXiv 2206.00364 (EDM: preconditioning, table 1; loss, eq. 8; schedule, eq. 5; Heun's method with
churn, algorithm 2); Dhariwal and Nichol, arXiv 2105.05233 (U-Net of residual blocks with scale and shift, attention at
low resolution); Ho and Salimans, arXiv 2207.12598 (classifier-free guidance: a class is kept from some of the training
images, and sampling goes from the prediction without it towards that with it, eq. 6). Different here: the noise levels
of a batch are stratified, so that a small batch covers them all; a guidance of w is their w - 1.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.models.base import VideoGenerator, register_model
from autopv.models.labels import UNLABELLED, ClassEmbedding
from autopv.models.sampling import Sampling

# Of values in [-1, 1]; the noise levels trained on are log-normal (EDM, table 1, for small images).
DATA_SD = 0.5
LOG_LEVEL_MEAN, LOG_LEVEL_SD = -1.2, 1.2
# How sampling's levels crowd at the low end (EDM, eq. 5).
SPACING = 7.0
# Churn adds noise between these levels only, slightly more of it than it took away (EDM, section 4).
CHURN_LEVELS, CHURN_NOISE = (0.05, 50.0), 1.003
# Of the training images, treated as if their class were not known (Ho and Salimans: 0.1 or 0.2 do best).
UNLABELLED_SHARE = 0.1
# Of a class's features before training. From zero, behind blocks that start at zero too, two constant images were not
# told apart by their labels after 100 steps; from here they were after 40.
_INITIAL_CLASS_SD = 1.0
_GROUP_WIDTH = 8
_HEAD_WIDTH = 32
_NUM_WAVES = 16


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of the family. widths: channels of each resolution, fine to coarse, each half the side of the last.

    num_blocks: residual blocks per resolution, on the way down and up alike. attention_side: attention follows every
    block at this many features a side and fewer. num_steps: of the sampler, two passes each but for the last, from the
    highest noise level to the lowest. joint: all frames are noised and denoised, not the image alone.
    """

    sizes_px: tuple[int, ...]
    widths: tuple[int, ...]
    num_blocks: int
    attention_side: int
    num_steps: int = 18
    highest: float = 80.0
    lowest: float = 0.002
    joint: bool = False


PRESETS: dict[str, Preset] = {
    # Measured at 16 px: with EDM's range 14 steps do worse than 9 with this one. Wider networks get less far in the
    # same time (experiments/presets).
    "tiny": Preset(
        sizes_px=(16, 8, 32),
        widths=(16, 32, 48),
        num_blocks=1,
        attention_side=8,
        num_steps=14,
        highest=20.0,
        lowest=0.01,
    ),
    "small": Preset(sizes_px=(64, 32), widths=(96, 192, 256, 256), num_blocks=2, attention_side=16),
    "base": Preset(sizes_px=(128, 64, 256), widths=(128, 128, 256, 384, 512), num_blocks=2, attention_side=16),
}
PRESETS |= {f"{name}-joint": replace(preset, joint=True) for name, preset in PRESETS.items()}


class Residual(nn.Module):
    """Two 3x3 convolutions around which x passes; the noise level scales and shifts what is between them.

    With attention, every position of the result then looks at every other.
    """

    def __init__(self, enters: int, leaves: int, *, side: int, embedded: int, attention: bool) -> None:
        super().__init__()
        self.side, self.leaves = side, leaves
        self.norm_in, self.norm_mid = _norm(enters), _norm(leaves)
        self.first = nn.Conv2d(enters, leaves, 3, padding=1)
        self.second = nn.Conv2d(leaves, leaves, 3, padding=1)
        self.level = nn.Linear(embedded, 2 * leaves)
        self.passing = nn.Identity() if enters == leaves else nn.Conv2d(enters, leaves, 1)
        self.attention = Attention(leaves) if attention else None
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.level(embedding)[:, :, None, None].chunk(2, 1)
        h = self.first(F.silu(self.norm_in(x)))
        h = self.second(F.silu(torch.addcmul(shift, self.norm_mid(h), scale + 1)))
        x = (self.passing(x) + h) * math.sqrt(0.5)
        return x if self.attention is None else self.attention(x)

    def flops(self) -> float:
        """Multiply-adds count twice."""
        positions = self.side**2
        convolutions = sum(m.weight.numel() for m in self.modules() if isinstance(m, nn.Conv2d))
        attention = 0 if self.attention is None else 4 * positions**2 * self.leaves
        return 2.0 * (convolutions * positions + self.level.weight.numel()) + attention


class Attention(nn.Module):
    """x + what each position gathers from all others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // _HEAD_WIDTH)
        self.norm = _norm(width)
        self.ask = nn.Conv2d(width, 3 * width, 1)
        self.tell = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, breadth = x.shape
        asked = self.ask(self.norm(x)).flatten(2).view(batch, 3, self.num_heads, -1, height * breadth)
        query, key, value = asked.transpose(-1, -2).unbind(1)
        gathered = F.scaled_dot_product_attention(query, key, value).transpose(-1, -2)
        told: Tensor = self.tell(gathered.reshape(batch, width, height, breadth))
        return (x + told) * math.sqrt(0.5)


class Denoiser(nn.Module):
    """The U-Net: noisy channels, the logarithm of their noise level, and perhaps labels -> the frames' channels."""

    def __init__(self, preset: Preset, *, size_px: int, enters: int, leaves: int, num_classes: int = 0) -> None:
        super().__init__()
        widths = preset.widths
        self.embedded = 4 * widths[0]
        self.size_px = size_px
        self.register_buffer("waves", torch.exp(torch.linspace(0, math.log(100.0), _NUM_WAVES)), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(2 * _NUM_WAVES, self.embedded), nn.SiLU(), nn.Linear(self.embedded, self.embedded), nn.SiLU()
        )
        self.enter = nn.Conv2d(enters, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def block(width: int, next_width: int, depth: int) -> Residual:
            side = size_px >> depth
            attends = side <= preset.attention_side
            return Residual(width, next_width, side=side, embedded=self.embedded, attention=attends)

        width, kept = widths[0], []
        for depth, next_width in enumerate(widths):
            for _ in range(preset.num_blocks):
                self.down.append(block(width, next_width, depth))
                width = next_width
                kept.append(width)
        self.middle = block(width, width, len(widths) - 1)
        for depth, next_width in reversed(list(enumerate(widths))):
            for _ in range(preset.num_blocks):
                self.up.append(block(width + kept.pop(), next_width, depth))
                width = next_width
        self.norm = _norm(width)
        self.leave = nn.Conv2d(width, leaves, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        # Last, so that all other weights start as they do without classes.
        self.of_class = (
            ClassEmbedding(num_classes, width=self.embedded, initial_sd=_INITIAL_CLASS_SD) if num_classes else None
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, log_level: Tensor, labels_B: Tensor | None = None) -> Tensor:
        phases = log_level[:, None] * self.waves  # type: ignore[operator]
        first, between, second, last = self.embed
        embedding = second(between(first(torch.cat([phases.sin(), phases.cos()], 1))))
        if self.of_class is not None and labels_B is not None:
            embedding = embedding + self.of_class(labels_B)
        embedding = last(embedding)
        x = self.enter(x)
        kept = []
        for block in self.down:
            if x.shape[-1] != block.side:
                x = F.avg_pool2d(x, 2)
            x = block(x, embedding)
            kept.append(x)
        x = self.middle(x, embedding)
        for block in self.up:
            if x.shape[-1] != block.side:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, kept.pop()], 1), embedding)
        out: Tensor = self.leave(F.silu(self.norm(x)))
        return out

    def flops(self) -> float:
        """Of one pass over one image."""
        ends = (self.enter.weight.numel() + self.leave.weight.numel()) * self.size_px**2
        embedding = sum(m.weight.numel() for m in self.embed if isinstance(m, nn.Linear))
        blocks = sum(module.flops() for module in self.modules() if isinstance(module, Residual | ClassEmbedding))
        return 2.0 * (ends + embedding) + blocks


@register_model("diffusion")
class Diffusion(VideoGenerator):
    """The diffusion model; with `num_frames=1` EDM's image model."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {name: p.sizes_px for name, p in PRESETS.items()}
    plan_defaults: ClassVar[Mapping[str, float]] = {"learning_rate": 2e-3}
    takes_classes: ClassVar[bool] = True

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        shape = {"size_px": size_px, "channels": channels, "num_frames": num_frames}
        super().__init__(preset=preset, **shape, num_classes=num_classes)
        # The last channels of a video's are noised and denoised, those before them are told.
        self.num_noised = num_frames * channels if PRESETS[preset].joint else channels
        ends = {"enters": self.num_noised, "leaves": num_frames * channels}
        self.denoiser = Denoiser(PRESETS[preset], size_px=size_px, **ends, num_classes=num_classes)
        self.sampling: Sampling = Sampling(num_steps=PRESETS[preset].num_steps)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """`level` (N,): standard normal, one from each of N equally likely parts; `pixels` (N, channels noised, H, W).

        With classes also `known` (N,), uniform: below UNLABELLED_SHARE an image's class is left out.
        """
        device = self.device
        order_N = torch.rand(num_images, generator=generator, device=device).argsort()
        within_N = torch.rand(num_images, generator=generator, device=device)
        share_N = ((order_N + within_N) / num_images).clamp(1e-6, 1 - 1e-6)
        shape = (num_images, self.num_noised, self.size_px, self.size_px)
        noise = {
            "level": math.sqrt(2) * torch.erfinv(2 * share_N - 1),
            "pixels": torch.randn(shape, generator=generator, device=device),
        }
        if self.num_classes > 0:
            noise["known"] = torch.rand(num_images, generator=generator, device=device)
        return noise

    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """EDM's weighted squared error (eq. 8), of each frame at its weight; there is no KL term to weigh.

        The error of a frame that is told counts as the image's in nothing but noise, at every level: the weight of
        little noise is for errors that vanish with it, which those of a told frame need not.
        """
        del kl_weight
        clean = (frames_BTCHW * 2 - 1).flatten(1, 2)
        level_B = torch.exp(LOG_LEVEL_MEAN + LOG_LEVEL_SD * noise["level"])
        if labels_B is not None:
            labels_B = torch.where(noise["known"] < UNLABELLED_SHARE, UNLABELLED, labels_B)
        noisy = clean[:, -self.num_noised :] + level_B[:, None, None, None] * noise["pixels"]
        frames = self._denoise(noisy, level_B, labels_B)
        errors_BT = (frames - clean).square().reshape(len(clean), self.num_frames, -1).mean(2)
        importance_B1 = ((level_B.square() + DATA_SD**2) / (level_B * DATA_SD).square())[:, None]
        num_noised = self.num_noised // self.channels
        told_BT = torch.full_like(errors_BT[:, :-num_noised], DATA_SD**-2)
        importance_BT = torch.cat([told_BT, importance_B1.expand(-1, num_noised)], 1)
        errors_T = (importance_BT * errors_BT).mean(0)
        terms = {f"error_{t + 1}": error for t, error in enumerate(errors_T.unbind())}
        return (frame_weights_T * errors_T).sum(), terms

    @torch.no_grad()
    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """Heun's method, `sampling.num_steps` steps (EDM, algorithm 2); frames are told as the last pass tells them.

        `temperature` scales the noise that sampling starts from and adds.

        Raises:
            ModelError: labels that do not fit, or guidance in a model without classes.
        """
        self.check_guidance()
        labels_B = self.labels_to_sample(labels, num_images=num_images, generator=generator)
        num_steps, churn = self.sampling.num_steps, self.sampling.churn
        shape = (num_images, self.num_noised, self.size_px, self.size_px)

        def noise() -> Tensor:
            return temperature * torch.randn(shape, generator=generator, device=self.device)

        def noised(frames: Tensor) -> Tensor:
            return frames[:, -self.num_noised :]

        levels = [*_levels(PRESETS[self.preset], num_steps=num_steps), 0.0]
        x = levels[0] * noise()
        for level, following in itertools.pairwise(levels):
            if churn > 0 and CHURN_LEVELS[0] <= level <= CHURN_LEVELS[1]:
                raised = level * (1 + min(churn / num_steps, math.sqrt(2) - 1))
                x = x + math.sqrt(raised**2 - level**2) * CHURN_NOISE * noise()
                level = raised
            frames = self._denoise_at(x, level, labels_B)
            slope = (x - noised(frames)) / level
            ahead = x + (following - level) * slope
            if following > 0:
                slope = 0.5 * slope + 0.5 * (ahead - noised(self._denoise_at(ahead, following, labels_B))) / following
                ahead = x + (following - level) * slope
            x = ahead
        frames = torch.cat([frames[:, : -self.num_noised], x], 1)
        return ((frames.reshape(num_images, self.num_frames, self.channels, *shape[2:]) + 1) / 2).clamp(0, 1)

    def flops(self) -> float:
        return self.denoiser.flops()

    def _denoise_at(self, x: Tensor, level: float, labels_B: Tensor | None) -> Tensor:
        """All frames' channels at one level, guided (Ho and Salimans, eq. 6, for denoised images instead of noise)."""
        level_B = x.new_full((len(x),), level)
        denoised = self._denoise(x, level_B, labels_B)
        guidance = self.sampling.guidance
        if guidance == 1 or labels_B is None:
            return denoised
        return torch.lerp(self._denoise(x, level_B, torch.full_like(labels_B, UNLABELLED)), denoised, guidance)

    def _denoise(self, noisy: Tensor, level_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """All frames' channels: those told, and what the clean ones of those noised are expected to be (EDM, eq. 7)."""
        total = (level_B.square() + DATA_SD**2).rsqrt()
        condition = () if labels_B is None else (labels_B,)
        passed = self.denoiser(noisy * total[:, None, None, None], level_B.log() / 4, *condition).float()
        skip, out = DATA_SD**2 * total.square(), level_B * DATA_SD * total
        denoised = skip[:, None, None, None] * noisy + out[:, None, None, None] * passed[:, -self.num_noised :]
        return torch.cat([passed[:, : -self.num_noised], denoised], 1)


def _levels(preset: Preset, *, num_steps: int) -> list[float]:
    """Noise levels from the highest to the lowest (EDM, eq. 5)."""
    first, last = preset.highest ** (1 / SPACING), preset.lowest ** (1 / SPACING)
    return [(first + i / max(1, num_steps - 1) * (last - first)) ** SPACING for i in range(num_steps)]


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, width // _GROUP_WIDTH), width)
