"""Which tokens follow which: two priors over the tokens of a video, its frames in order.

Either takes tokens_BTN (T frames of N tokens, a square row by row) and gives each frame's negative log-likelihood, of
which the masked one is a bound. Transformers are x-transformers'.

Source: Yan et al., arXiv 2104.10157 (VideoGPT: tokens one after the other); Chang et al., arXiv 2202.04200 (MaskGIT:
all tokens at once, the surest are kept, the rest is asked again); Hoogeboom et al., arXiv 2110.02037 (the bound, eq. 2:
one network for every order). Different here: frames are generated in order by the masked prior as well, each from the
finished ones before it.

Frames may also be told beside: what is drawn are the tokens of the frames after them, and from what is known of these
each place tells the tokens that the told frames have there. As several tokens ahead teach a language model (Gloeckle et
al., arXiv 2404.19737), so may they teach this one; sampling pays for none.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.models.labels import UNLABELLED, ClassEmbedding
from autopv.models.packages import import_package

# Of the tokens that the causal prior looks back on in training, replaced by any: sampling errs as well.
REPLACED_SHARE = 0.02
# Of the training images, treated as if their class were not known, where guidance needs to know both.
UNLABELLED_SHARE = 0.1
# How much chance there is in which tokens count as sure, at first; it falls to 0 (MaskGIT's code: 4.5).
CHOICE_TEMPERATURE = 4.5
_HEAD_WIDTH = 32
_INITIAL_PLACE_SD = 0.02
_INITIAL_CLASS_SD = 0.5


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Their shape: frames that are drawn, tokens of a frame, different tokens, and numbers that one stands for.

    num_told: frames before those, whose tokens are told beside; then only one frame is drawn.
    """

    num_frames: int
    per_frame: int
    num_codes: int
    code_width: int
    num_told: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How tokens are drawn: temperature of their distribution, passes for a frame, and guidance (`Sampling`)."""

    temperature: float
    num_steps: int = 1
    guidance: float = 1.0

    def scaled(self, logits: Tensor) -> Tensor:
        """The logits to draw by; at a temperature of 0 the likeliest token wins."""
        return logits.float() / max(self.temperature, 1e-6)


class Prior(nn.Module, ABC):
    """A distribution over the tokens of videos."""

    def __init__(self, tokens: Tokens, *, width: int, depth: int, num_classes: int, causal: bool) -> None:
        super().__init__()
        assert tokens.num_told == 0 or tokens.num_frames == 1
        self.tokens, self.depth = tokens, depth
        self.num_heads = max(1, width // _HEAD_WIDTH)
        self.enter = nn.Linear(tokens.code_width, width)
        self.frames_TW = nn.Parameter(_INITIAL_PLACE_SD * torch.randn(tokens.num_frames, width))
        self.places_NW = nn.Parameter(_INITIAL_PLACE_SD * torch.randn(tokens.per_frame, width))
        self.unknown = nn.Parameter(torch.zeros(width))
        package = import_package("x_transformers")
        self.transformer = (package.Decoder if causal else package.Encoder)(
            dim=width,
            depth=depth,
            heads=self.num_heads,
            attn_dim_head=_HEAD_WIDTH,
            attn_flash=True,
            use_rmsnorm=True,
        )
        self.leave = nn.Linear(width, tokens.num_codes)
        self.tell = nn.Linear(width, tokens.num_told * tokens.num_codes) if tokens.num_told else None
        # Last, so that all other weights start as they do without classes.
        self.of_class = ClassEmbedding(num_classes, width=width, initial_sd=_INITIAL_CLASS_SD) if num_classes else None

    @abstractmethod
    def draw_noise(self, num_images: int, *, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """Everything that `rates` leaves to chance, the images first."""

    @abstractmethod
    def rates(
        self, tokens_BTN: Tensor, *, codes: Tensor, noise: Mapping[str, Tensor], labels_B: Tensor | None
    ) -> Tensor:
        """rates_T: each frame's negative log-likelihood given those before it, nats per token, mean over images.

        The told frames come first, given of the one after them what is known where a token is told.
        """

    @abstractmethod
    def sample(
        self,
        num_images: int,
        *,
        codes: Tensor,
        drawing: Drawing,
        generator: torch.Generator,
        labels_B: Tensor | None,
    ) -> Tensor:
        """tokens_BTN of new videos, without the told frames."""

    @abstractmethod
    def told(self, tokens_BTN: Tensor, *, codes: Tensor, labels_B: Tensor | None) -> Tensor:
        """The told frames' likeliest tokens, (B, told, N), given tokens_BTN that were sampled."""

    @property
    @abstractmethod
    def trained_length(self) -> int:
        """Tokens that pass through the transformer for one image in training."""

    @property
    def read_length(self) -> int:
        """Those of them that tell a token."""
        return self.tokens.num_frames * self.tokens.per_frame

    def flops(self) -> float:
        """Of `rates` for one image: multiply-adds count twice."""
        weights = sum(m.weight.numel() for m in self.transformer.modules() if isinstance(m, nn.Linear))
        attention = 4.0 * self.trained_length**2 * self.num_heads * _HEAD_WIDTH * self.depth
        ends = self.read_length * (self.enter.weight.numel() + self.leave.weight.numel())
        if self.tell is not None:
            ends += self.tokens.per_frame * self.tell.weight.numel()
        of_class = 0.0 if self.of_class is None else self.of_class.flops()
        return 2.0 * (weights * self.trained_length + ends) + attention + of_class

    @property
    def _places(self) -> Tensor:
        """What tells a token's place: (T, N, width)."""
        return self.frames_TW[:, None] + self.places_NW

    def _with_class(self, x: Tensor, labels_B: Tensor | None) -> Tensor:
        if self.of_class is None or labels_B is None:
            return x
        conditioned: Tensor = x + self.of_class(labels_B)[:, None]
        return conditioned

    def _told_logits(self, out: Tensor) -> Tensor:
        """(B, told, N, codes) from the transformer's output, (B, N, width)."""
        assert self.tell is not None
        logits: Tensor = self.tell(out).float()
        return logits.view(*out.shape[:2], self.tokens.num_told, self.tokens.num_codes).transpose(1, 2)

    def _told_rates(self, out: Tensor, told_BTN: Tensor) -> Tensor:
        """As `rates`, of the told frames."""
        if self.tell is None:
            return out.new_zeros(0, dtype=torch.float32)
        logits = self._told_logits(out)
        losses = F.cross_entropy(logits.flatten(0, 2), told_BTN.flatten(), reduction="none")
        return losses.view(told_BTN.shape).mean((0, 2))

    def _parted(self, tokens_BTN: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the told frames and of those that are drawn."""
        return tokens_BTN[:, : self.tokens.num_told], tokens_BTN[:, self.tokens.num_told :]

    def _pass(self, x: Tensor, **how: Any) -> tuple[Tensor, Any]:
        """The transformer's output and what it keeps of its keys and values."""
        out: tuple[Tensor, Any] = self.transformer(x, return_hiddens=True, **how)
        return out


class CausalPrior(Prior):
    """Tokens one after the other, frame after frame; what was computed for earlier ones is kept when sampling."""

    def __init__(self, tokens: Tokens, *, width: int, depth: int, num_classes: int) -> None:
        super().__init__(tokens, width=width, depth=depth, num_classes=num_classes, causal=True)

    def draw_noise(self, num_images: int, *, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """`replace`, `other` (N, T N): uniform; below REPLACED_SHARE a token is replaced, by which one."""
        shape = (num_images, self.read_length)
        return {name: torch.rand(shape, generator=generator, device=device) for name in ("replace", "other")}

    def rates(
        self, tokens_BTN: Tensor, *, codes: Tensor, noise: Mapping[str, Tensor], labels_B: Tensor | None
    ) -> Tensor:
        told_BTN, drawn_BTN = self._parted(tokens_BTN)
        tokens = drawn_BTN.flatten(1)
        other = (noise["other"] * self.tokens.num_codes).long().clamp(max=self.tokens.num_codes - 1)
        out = self._read(torch.where(noise["replace"] < REPLACED_SHARE, other, tokens), codes=codes, labels_B=labels_B)
        losses = F.cross_entropy(self.leave(out).float().flatten(0, 1), tokens.flatten(), reduction="none")
        return torch.cat([self._told_rates(out, told_BTN), losses.view(drawn_BTN.shape).mean((0, 2))])

    def told(self, tokens_BTN: Tensor, *, codes: Tensor, labels_B: Tensor | None) -> Tensor:
        return self._told_logits(self._read(tokens_BTN.flatten(1), codes=codes, labels_B=labels_B)).argmax(-1)

    def sample(
        self,
        num_images: int,
        *,
        codes: Tensor,
        drawing: Drawing,
        generator: torch.Generator,
        labels_B: Tensor | None,
    ) -> Tensor:
        places, kept = self._places.flatten(0, 1), None
        x = self.unknown.expand(num_images, 1, -1)
        drawn: list[Tensor] = []
        for place in places:
            entered = self._with_class(x + place, labels_B)
            out, kept = self._pass(entered, cache=kept, input_not_include_cache=True)
            token = _draw(drawing.scaled(self.leave(out[:, -1])), generator=generator)
            drawn.append(token)
            x = self.enter(codes[token])[:, None]
        return torch.stack(drawn, 1).view(num_images, self.tokens.num_frames, self.tokens.per_frame)

    @property
    def trained_length(self) -> int:
        return self.read_length

    def _read(self, tokens_BN: Tensor, *, codes: Tensor, labels_B: Tensor | None) -> Tensor:
        """The transformer's output at each token, which has seen those before it."""
        entered = self.enter(codes[tokens_BN[:, :-1]])
        x = torch.cat([self.unknown.expand(len(tokens_BN), 1, -1), entered], 1)
        return self._pass(self._with_class(x + self._places.flatten(0, 1), labels_B))[0]


class MaskedPrior(Prior):
    """All tokens of a frame at once, again and again until all are decided, given the frames before it.

    In training each frame is there twice: as it is, for those after it, and with tokens hidden, to be told. A frame
    with hidden tokens sees itself and the true frames before it; true frames see no hidden tokens.
    """

    visible: Tensor

    def __init__(self, tokens: Tokens, *, width: int, depth: int, num_classes: int) -> None:
        super().__init__(tokens, width=width, depth=depth, num_classes=num_classes, causal=False)
        self.register_buffer("visible", self._visible(), persistent=False)

    def draw_noise(self, num_images: int, *, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
        """`order` (N, T, tokens) and `share` (N, T), uniform: which tokens are hidden, and how many.

        With classes also `known` (N,), uniform: below UNLABELLED_SHARE an image's class is left out.
        """
        shape = (num_images, self.tokens.num_frames, self.tokens.per_frame)
        strata = torch.rand(shape[:2], generator=generator, device=device).argsort(0)
        within = torch.rand(shape[:2], generator=generator, device=device)
        noise = {
            "order": torch.rand(shape, generator=generator, device=device),
            # One from each of so many equal parts: a small batch covers few and many hidden tokens alike.
            "share": (strata + within) / num_images,
        }
        if self.of_class is not None:
            noise["known"] = torch.rand(num_images, generator=generator, device=device)
        return noise

    def rates(
        self, tokens_BTN: Tensor, *, codes: Tensor, noise: Mapping[str, Tensor], labels_B: Tensor | None
    ) -> Tensor:
        if labels_B is not None:
            labels_B = torch.where(noise["known"] < UNLABELLED_SHARE, UNLABELLED, labels_B)
        told_BTN, tokens_BTN = self._parted(tokens_BTN)
        per_frame = self.tokens.per_frame
        num_hidden_BT = (noise["share"] * per_frame).long().clamp(max=per_frame - 1) + 1
        hidden_BTN = noise["order"].argsort(2).argsort(2) < num_hidden_BT[:, :, None]
        true_BTNW = self.enter(codes[tokens_BTN]) + self._places
        hidden_BTNW = torch.where(hidden_BTN[..., None], self.unknown + self._places, true_BTNW)
        x = torch.cat([true_BTNW[:, :-1].flatten(1, 2), hidden_BTNW.flatten(1, 2)], 1)
        out, _ = self._pass(self._with_class(x, labels_B), attn_mask=self.visible)
        out = out[:, -self.read_length :]
        logits = self.leave(out).float()
        losses = F.cross_entropy(logits.flatten(0, 1), tokens_BTN.flatten(), reduction="none").view(tokens_BTN.shape)
        rates_T = ((losses * hidden_BTN).sum(2) / num_hidden_BT).mean(0)
        return torch.cat([self._told_rates(out, told_BTN), rates_T])

    def told(self, tokens_BTN: Tensor, *, codes: Tensor, labels_B: Tensor | None) -> Tensor:
        entered = self.enter(codes[tokens_BTN[:, 0]]) + self._places[0]
        return self._told_logits(self._pass(self._with_class(entered, labels_B))[0]).argmax(-1)

    def sample(
        self,
        num_images: int,
        *,
        codes: Tensor,
        drawing: Drawing,
        generator: torch.Generator,
        labels_B: Tensor | None,
    ) -> Tensor:
        guided = drawing.guidance != 1 and labels_B is not None
        if labels_B is not None and guided:
            # Every pass is over two batches: with the classes and without.
            labels_B = torch.cat([labels_B, torch.full_like(labels_B, UNLABELLED)])
        frames: list[Tensor] = []
        kept: list[tuple[Tensor, Tensor]] = []

        def seen(entered: Tensor) -> tuple[Tensor, Any]:
            doubled = torch.cat([entered, entered]) if guided else entered
            how = {"self_attn_additional_kv": kept} if kept else {}
            return self._pass(self._with_class(doubled, labels_B), **how)

        def asked(entered: Tensor) -> Tensor:
            logits: Tensor = self.leave(seen(entered)[0]).float()
            if not guided:
                return logits
            with_class, without = logits.chunk(2)
            return torch.lerp(without, with_class, drawing.guidance)

        for t in range(self.tokens.num_frames):
            places_NW = self._places[t]
            tokens = torch.zeros(num_images, self.tokens.per_frame, dtype=torch.int64, device=codes.device)
            hidden = torch.ones_like(tokens, dtype=torch.bool)
            for step in range(drawing.num_steps):
                entered = torch.where(hidden[..., None], self.unknown, self.enter(codes[tokens])) + places_NW
                logits = drawing.scaled(asked(entered))
                drawn = _draw(logits, generator=generator)
                tokens = torch.where(hidden, drawn, tokens)
                done = (step + 1) / drawing.num_steps
                # MaskGIT's schedule: few tokens first, many in the end.
                num_left = math.floor(self.tokens.per_frame * math.cos(math.pi / 2 * done))
                sureness = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
                gumbel = -torch.log(-torch.log(_uniform(sureness, generator=generator)))
                sureness = sureness + CHOICE_TEMPERATURE * (1 - done) * gumbel
                sureness = sureness.masked_fill(~hidden, math.inf)
                hidden = sureness.argsort(1).argsort(1) < num_left
            frames.append(tokens)
            if t < self.tokens.num_frames - 1:
                _, finished = seen(self.enter(codes[tokens]) + places_NW)
                kept = _joined(kept, [part.cached_kv for part in finished.attn_intermediates])
        return torch.stack(frames, 1)

    @property
    def trained_length(self) -> int:
        return (2 * self.tokens.num_frames - 1) * self.tokens.per_frame

    def _visible(self) -> Tensor:
        """Which of the trained tokens (rows) see which (columns)."""
        num_frames, per_frame = self.tokens.num_frames, self.tokens.per_frame
        frame = torch.arange(num_frames).repeat_interleave(per_frame)
        true = frame[: (num_frames - 1) * per_frame]
        before = frame[:, None] > true
        true_sees = torch.cat([true[:, None] >= true, torch.zeros(len(true), len(frame), dtype=torch.bool)], 1)
        hidden_sees = torch.cat([before, frame[:, None] == frame], 1)
        return torch.cat([true_sees, hidden_sees])


PRIORS: dict[str, type[CausalPrior] | type[MaskedPrior]] = {"causal": CausalPrior, "masked": MaskedPrior}


def _joined(kept: list[tuple[Tensor, Tensor]], news: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, those of one more frame at the end."""
    if not kept:
        return news
    pairs = zip(kept, news, strict=True)
    return [(torch.cat([old[0], new[0]], 2), torch.cat([old[1], new[1]], 2)) for old, new in pairs]


def _draw(logits: Tensor, *, generator: torch.Generator) -> Tensor:
    """A token for each position, the last axis being the tokens there are."""
    shares = logits.softmax(-1)
    return torch.multinomial(shares.flatten(0, -2), 1, generator=generator).view(logits.shape[:-1])


def _uniform(like: Tensor, *, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device).clamp(1e-6, 1 - 1e-6)
