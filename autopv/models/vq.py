"""A token model: frames as squares of tokens, and a prior over a video's tokens.

The tokeniser (tokeniser.py) sees each frame by itself. Of the prior (priors.py) there are two kinds: one draws tokens
one after the other, the other a frame's tokens in a few passes; presets choose. And there are two ways to treat the
corrupted frames, which presets choose as well:

- told (the usual presets): the tokens of the image alone are drawn, and in training each place tells those that the
  corrupted frames have there as well. Sampling costs what it costs with one frame.
- joint: the usual video model. The tokens of a frame are drawn given those of the frames before it, so a corrupted
  frame is what the next one is made from; an image costs the tokens of all frames.

Both are trained together, in every training anew: the tokeniser for the frames' reconstruction, the prior for its
tokens, which are targets only, so that nothing of the prior reaches the tokeniser. (It takes less than a fifth of the
compute, two fifths with two frames told. No more could be saved by training it once for all trials, and then it would
not know a policy's frames.)

With one frame it is the token model of images. Only the frames that are asked for are decoded.

Source: van den Oord et al., arXiv 1711.00937 (VQ-VAE: tokens and a prior over them); Mentzer et al., arXiv 2309.15505
(FSQ); Yan et al., arXiv 2104.10157 (VideoGPT); Chang et al., arXiv 2202.04200 (MaskGIT); Villegas et al., arXiv
2210.02399 (Phenaki: videos by masked tokens).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.errors import ModelError
from autopv.models.base import VideoGenerator, register_model
from autopv.models.ladder import Stage
from autopv.models.likelihood import build_likelihood, pseudo_frame_score
from autopv.models.priors import PRIORS, Drawing, Tokens
from autopv.models.sampling import Sampling
from autopv.models.tokeniser import Tokeniser


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One size of the family.

    stages: of the tokeniser, coarse to fine; an image takes those from its tokens' side up to size_px / patch_px.
    token_side: tokens a side, or as many as an image has patches. levels: values of each channel of a token. prior: its
    kind, width: its features, depth: its layers. num_steps: passes in which a masked prior draws a frame. joint: all
    frames are drawn, not the image alone.
    """

    sizes_px: tuple[int, ...]
    patch_px: int
    stages: tuple[Stage, ...]
    token_side: int
    levels: tuple[int, ...]
    prior: str
    width: int
    depth: int
    num_steps: int = 8
    joint: bool = False


def _stage(side: int, width: int, *, blocks: int) -> Stage:
    return Stage(side=side, width=width, inner=width // 2, num_levels=0, encoder_blocks=blocks)


def _sizes(prior: str) -> dict[str, Preset]:
    """The presets with one kind of prior, smallest first."""
    return {
        "tiny": Preset(
            sizes_px=(16, 8, 32),
            patch_px=2,
            stages=(_stage(4, 64, blocks=2), _stage(8, 64, blocks=2), _stage(16, 48, blocks=1)),
            token_side=16,
            levels=(5, 5, 5),
            prior=prior,
            width=64,
            depth=4,
        ),
        "small": Preset(
            sizes_px=(64, 32),
            patch_px=2,
            stages=(_stage(16, 192, blocks=2), _stage(32, 128, blocks=2)),
            token_side=16,
            levels=(8, 5, 5, 5),
            prior=prior,
            width=384,
            depth=8,
            num_steps=12,
        ),
        "base": Preset(
            sizes_px=(128, 64, 256),
            patch_px=2,
            stages=(
                _stage(16, 384, blocks=3),
                _stage(32, 256, blocks=2),
                _stage(64, 192, blocks=2),
                _stage(128, 96, blocks=1),
            ),
            token_side=16,
            levels=(7, 5, 5, 5, 5),
            prior=prior,
            width=768,
            depth=12,
            num_steps=12,
        ),
    }


PRESETS: dict[str, Preset] = {
    **_sizes("causal"),
    **{f"{name}-masked": preset for name, preset in _sizes("masked").items()},
}
PRESETS |= {f"{name}-joint": replace(preset, joint=True) for name, preset in PRESETS.items()}


@register_model("vq")
class Vq(VideoGenerator):
    """The token model; with `num_frames=1` one of images."""

    preset_sizes_px: ClassVar[Mapping[str, tuple[int, ...]]] = {name: p.sizes_px for name, p in PRESETS.items()}
    plan_defaults: ClassVar[Mapping[str, float]] = {"learning_rate": 2e-3}
    takes_classes: ClassVar[bool] = True

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        shape = {"size_px": size_px, "channels": channels, "num_frames": num_frames}
        super().__init__(preset=preset, **shape, num_classes=num_classes)
        made = PRESETS[preset]
        side = min(made.token_side, size_px // made.patch_px)
        stages = [stage for stage in made.stages if side <= stage.side <= size_px // made.patch_px]
        self.likelihood = build_likelihood("gaussian", channels=channels)
        self.tokeniser = Tokeniser(
            stages, size_px=size_px, channels=channels, patch_px=made.patch_px, levels=made.levels
        )
        num_drawn = num_frames if made.joint else 1
        tokens = Tokens(
            num_frames=num_drawn,
            num_told=num_frames - num_drawn,
            per_frame=self.tokeniser.num_tokens,
            num_codes=self.tokeniser.num_codes,
            code_width=len(made.levels),
        )
        self.prior = PRIORS[made.prior](tokens, width=made.width, depth=made.depth, num_classes=num_classes)
        self.sampling = Sampling(num_steps=made.num_steps) if made.prior == "masked" else None
        self.to(memory_format=torch.channels_last)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """What the prior leaves to chance (`draw_noise` of CausalPrior and MaskedPrior)."""
        return self.prior.draw_noise(num_images, generator=generator, device=self.device)

    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distortion and rate in nats per channel value of the image; the rate reaches nothing but the prior.

        As in hvae, frame t < T is Gaussian around its reconstruction, with variance s^2 / w_t, where s is the scale
        that the last frame alone moves. The tokens are certain given the frames, so their likelihood is the rate.
        """
        frames = frames_BTCHW * 2 - 1
        num_images, num_frames = frames.shape[:2]
        codes, tokens = self.tokeniser.encode(frames.flatten(0, 1))
        decoded = self.tokeniser.decode(codes).view(frames.shape)
        score, _, log_scale = self.likelihood.score(decoded[:, -1], frames[:, -1])
        tokens_BTN = tokens.view(num_images, num_frames, -1)
        rates_T = self.prior.rates(tokens_BTN, codes=self.tokeniser.codes, noise=noise, labels_B=labels_B)
        rates_T = rates_T * (self.tokeniser.num_tokens / frames[0, 0].numel())
        total = score + kl_weight * (frame_weights_T * rates_T).sum()
        terms = {"distortion": score, "rate": rates_T[-1], "log_scale": log_scale}
        for t in range(num_frames - 1):
            error = F.mse_loss(decoded[:, t], frames[:, t])
            total = total + frame_weights_T[t] * pseudo_frame_score(error, log_scale=log_scale)
            terms |= {f"mse_{t + 1}": error, f"rate_{t + 1}": rates_T[t]}
        return total, terms

    def sample_last_frame(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        labels_B = self.labels_to_sample(labels, num_images=num_images, generator=generator)
        tokens_BTN = self._tokens(num_images, labels_B=labels_B, generator=generator, temperature=temperature)
        return self._decode(tokens_BTN[:, -1])

    @torch.no_grad()
    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """New videos; `temperature` divides the logits of every token that is drawn. Frames are told as they are
        likeliest, given the image."""
        labels_B = self.labels_to_sample(labels, num_images=num_images, generator=generator)
        tokens_BTN = self._tokens(num_images, labels_B=labels_B, generator=generator, temperature=temperature)
        if self.prior.tokens.num_told > 0:
            told_BTN = self.prior.told(tokens_BTN, codes=self.tokeniser.codes, labels_B=labels_B)
            tokens_BTN = torch.cat([told_BTN, tokens_BTN], 1)
        # Frame by frame: as for the last one alone, to the bit.
        return torch.stack([self._decode(tokens_BN) for tokens_BN in tokens_BTN.unbind(1)], 1)

    def flops(self) -> float:
        return self.num_frames * self.tokeniser.flops() + self.prior.flops()

    @torch.no_grad()
    def _tokens(
        self, num_images: int, *, labels_B: Tensor | None, generator: torch.Generator, temperature: float
    ) -> Tensor:
        """Of the frames that are drawn."""
        self.check_guidance()
        drawing = Drawing(temperature=temperature)
        if self.sampling is not None:
            if self.sampling.churn != 0:
                raise ModelError(f"tokens are drawn without --churn, but got {self.sampling.churn}: leave it at 0")
            drawing = Drawing(
                temperature=temperature, num_steps=self.sampling.num_steps, guidance=self.sampling.guidance
            )
        return self.prior.sample(
            num_images, codes=self.tokeniser.codes, drawing=drawing, generator=generator, labels_B=labels_B
        )

    @torch.no_grad()
    def _decode(self, tokens_BN: Tensor) -> Tensor:
        return ((self.tokeniser.decode_tokens(tokens_BN) + 1) / 2).clamp(0, 1)
