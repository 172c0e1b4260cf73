"""Variants of the models, each of which tests why a pseudo video does not help for good; and other families."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from autopv.models.base import VideoGenerator, register_model
from autopv.models.diffusion import DATA_SD, LOG_LEVEL_MEAN, LOG_LEVEL_SD, Diffusion
from autopv.models.diffusion import PRESETS as DIFFUSION_PRESETS
from autopv.models.hvae import PRESETS, Hvae

# An error that is nearly nothing must not pull without bound.
_SMALLEST_ERROR = 1e-5
LEAD = 2.0
"""How many times less noise a pseudo frame has than the next one."""


@register_model("hvae-own-scale")
class OwnScale(Hvae):
    """Each pseudo frame is held to a scale of its own (the best one for its error) rather than to the image's.

    The image's scale falls all through a training, so that a fixed weight asks ever more precision of pseudo frames;
    with its own scale a frame pulls with the same force throughout.
    """

    def _frame_score(self, error: Tensor, *, log_scale: Tensor) -> Tensor:  # noqa: ARG002 - that is the variant
        return 0.5 * error.clamp(min=_SMALLEST_ERROR).log()


def _raised(noise: Mapping[str, Tensor], *, by: float) -> Mapping[str, Tensor]:
    """With all logs of noise levels so much higher."""
    return {**noise, "level": noise["level"] + by / LOG_LEVEL_SD}


@register_model("diffusion-higher-levels")
class HigherLevels(Diffusion):
    """As many frames of one content average the noise away, so that what one frame is asked at a level, T are asked
    at sqrt(T) times as much."""

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        return _raised(super().draw_noise(num_images, generator=generator), by=0.5 * math.log(self.num_frames))


@register_model("diffusion-leading-frames")
class LeadingFrames(Diffusion):
    """A pseudo frame has half the noise of the frame after it, so it is there first and says what that will be."""

    @property
    def _shares(self) -> Tensor:
        """The noise level of each frame's channels as a share of the image's."""
        shares_T = LEAD ** -torch.arange(self.num_frames - 1, -1, -1, dtype=torch.float32, device=self.device)
        return shares_T.repeat_interleave(self.channels)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        # The frames' levels lie around the usual ones, the image's above them.
        by = 0.5 * (self.num_frames - 1) * math.log(LEAD)
        return _raised(super().draw_noise(num_images, generator=generator), by=by)

    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del kl_weight
        clean = (frames_BTCHW * 2 - 1).flatten(1, 2)
        level_B = torch.exp(LOG_LEVEL_MEAN + LOG_LEVEL_SD * noise["level"])
        level_BK = level_B[:, None] * self._shares
        denoised = self._denoise(clean + level_BK[..., None, None] * noise["pixels"], level_B, labels_B)
        importance_BK = (level_BK.square() + DATA_SD**2) / (level_BK * DATA_SD).square()
        errors_BK = importance_BK * (denoised - clean).square().mean((2, 3))
        errors_T = errors_BK.mean(0).view(self.num_frames, self.channels).mean(1)
        return (frame_weights_T * errors_T).sum(), {f"error_{t + 1}": e for t, e in enumerate(errors_T.unbind())}

    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        # Levels that are all the same share of the image's make the same steps; only what they start from differs.
        scale = temperature * self._shares[:, None, None]
        return super().sample_frames(num_images, labels=labels, generator=generator, temperature=scale)  # type: ignore[arg-type]

    def _denoise(self, noisy: Tensor, level_B: Tensor, labels_B: Tensor | None) -> Tensor:
        level_BK = (level_B[:, None] * self._shares)[..., None, None]
        total = (level_BK.square() + DATA_SD**2).rsqrt()
        condition = () if labels_B is None else (labels_B,)
        passed = self.denoiser(noisy * total, level_B.log() / 4, *condition).float()
        return DATA_SD**2 * total.square() * noisy + level_BK * DATA_SD * total * passed


@register_model("diffusion-frames-apart")
class FramesApart(VideoGenerator):
    """Each frame is an image of a class of its own, and a training image is one of its video's; the last is sampled.

    What EDM's augmentation is (appendix F.2), for any corruption: the frames share nothing but the weights. How often a
    frame is taken goes by its weight, so that a step costs what it costs with images alone.
    """

    preset_sizes_px = Diffusion.preset_sizes_px
    plan_defaults = Diffusion.plan_defaults

    def __init__(self, *, preset: str, size_px: int, channels: int, num_frames: int, num_classes: int = 0) -> None:
        shape = {"size_px": size_px, "channels": channels}
        super().__init__(preset=preset, **shape, num_frames=num_frames, num_classes=num_classes)
        self.images = Diffusion(preset=preset, **shape, num_frames=1, num_classes=num_frames)

    def draw_noise(self, num_images: int, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Diffusion's, but that every frame is known; `frame` (N,) is uniform, one from each of N equal parts."""
        noise = self.images.draw_noise(num_images, generator=generator)
        parts_N = torch.rand(num_images, generator=generator, device=self.device).argsort()
        within_N = torch.rand(num_images, generator=generator, device=self.device)
        return {**noise, "known": torch.ones_like(within_N), "frame": (parts_N + within_N) / num_images}

    def loss_terms(
        self,
        frames_BTCHW: Tensor,
        *,
        frame_weights_T: Tensor,
        noise: Mapping[str, Tensor],
        kl_weight: Tensor,
        labels_B: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        del labels_B
        shares_T = frame_weights_T.cumsum(0) / frame_weights_T.sum()
        frame_B = (noise["frame"][:, None] >= shares_T[:-1]).sum(1)
        is_taken_BT = frame_B[:, None] == torch.arange(self.num_frames, device=self.device)
        taken = (is_taken_BT[..., None, None, None] * frames_BTCHW).sum(1, keepdim=True)
        weights = frame_weights_T[-1:]
        return self.images.loss_terms(
            taken, frame_weights_T=weights, noise=noise, kl_weight=kl_weight, labels_B=frame_B
        )

    def sample_frames(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """From the same noise."""
        del labels
        state, videos = generator.get_state(), []
        for t in range(self.num_frames):
            generator.set_state(state)
            videos.append(self._sample(t, num_images, generator=generator, temperature=temperature))
        return torch.stack(videos, 1)

    def sample_last_frame(
        self, num_images: int, *, labels: Tensor | None = None, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        del labels
        return self._sample(self.num_frames - 1, num_images, generator=generator, temperature=temperature)

    def _sample(self, t: int, num_images: int, *, generator: torch.Generator, temperature: float) -> Tensor:
        labels = torch.full((num_images,), t, device=self.device)
        return self.images.sample_last_frame(num_images, labels=labels, generator=generator, temperature=temperature)

    def flops(self) -> float:
        return self.images.flops()


@dataclass(frozen=True)
class Variant:
    """A model's registered name and preset, and what of the plan differs from its defaults."""

    model: str = "hvae"
    preset: str = "tiny"
    plan: Mapping[str, float] = field(default_factory=dict)
    reference: str = ""
    """The variant whose image-only training it is compared with; another than itself has it as one more arm."""


# Registered beside the shipped presets, for this process alone.
PRESETS["tiny-mixture"] = replace(PRESETS["tiny"], likelihood="logistic_mixture")
PRESETS["tiny-early"] = replace(PRESETS["tiny"], frame_levels=0.4)
# The first of three frames starts from as much noise as it does otherwise.
DIFFUSION_PRESETS["tiny-wide-range"] = replace(DIFFUSION_PRESETS["tiny-joint"], highest=80.0)
Diffusion.preset_sizes_px = {name: preset.sizes_px for name, preset in DIFFUSION_PRESETS.items()}
Hvae.preset_sizes_px = {name: preset.sizes_px for name, preset in PRESETS.items()}

VARIANTS = {
    "": Variant(),
    "own": Variant(model="hvae-own-scale"),
    "mixture": Variant(preset="tiny-mixture"),
    "early": Variant(preset="tiny-early"),
    "KL 2": Variant(plan={"kl_weight": 2.0}, reference="KL 2"),
    "refine": Variant(model="refine", reference="refine"),
    "diffusion": Variant(model="diffusion", preset="tiny-joint", reference="diffusion"),
    "vq": Variant(model="vq", reference="vq"),
    "vq-joint": Variant(model="vq", preset="tiny-joint", reference="vq"),
    "vq-masked": Variant(model="vq", preset="tiny-masked", reference="vq-masked"),
    "vq-masked-joint": Variant(model="vq", preset="tiny-masked-joint", reference="vq-masked"),
    "higher": Variant(model="diffusion-higher-levels", preset="tiny-joint", reference="diffusion"),
    "told": Variant(model="diffusion", reference="diffusion"),
    "apart": Variant(model="diffusion-frames-apart", reference="diffusion"),
    "leading": Variant(model="diffusion-leading-frames", preset="tiny-wide-range", reference="diffusion"),
}
"""By name: as it is; own scales; a mixture of logistics; pseudo frames read off early, most levels for the image; KL
terms that count twice; the other families, vq as it is and drawing all frames; diffusion with more noise, with pseudo
frames that are only told, that are images of another class, and with less noise in them."""
