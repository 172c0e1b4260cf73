"""Variants of the hierarchical VAE that weigh the rates of its levels in other ways."""

from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.models.base import register_model
from autopv.models.hvae import FIRST_RATE_WEIGHT, Hvae


class _Heavier(Hvae):
    """The rate counts `beta` times (Higgins et al., ICLR 2017): less information, nearer to the prior."""

    beta = 1.0

    def _weighted_rate(self, kl_L: Tensor, *, warmth: Tensor) -> Tensor:
        return self.beta * super()._weighted_rate(kl_L, warmth=warmth)


@register_model("hvae-beta-1.5")
class Beta15(_Heavier):
    """Half as much again."""

    beta = 1.5


@register_model("hvae-beta-2")
class Beta2(_Heavier):
    """Twice."""

    beta = 2.0


@register_model("hvae-ordered")
class Ordered(Hvae):
    """The finest level pays its full rate from the start, the coarsest begins gently, those between evenly between.

    With a warm-up for all, the fine levels take in everything while it is cheap, and the coarse ones stay silent.
    """

    def _weighted_rate(self, kl_L: Tensor, *, warmth: Tensor) -> Tensor:
        place_L = torch.linspace(0, 1, len(kl_L), device=kl_L.device)
        first_L = FIRST_RATE_WEIGHT + (1 - FIRST_RATE_WEIGHT) * place_L
        return ((first_L + (1 - first_L) * warmth.clamp(0, 1)) * kl_L).sum()


@dataclass(frozen=True)
class Variant:
    """A model's registered name, and what of the plan differs from its defaults."""

    model: str = "hvae"
    warmup_share: float | None = None
    weight_decay: float | None = None


VARIANTS = {
    "defaults": Variant(),
    "ordered": Variant(model="hvae-ordered", warmup_share=1 / 3),
    "beta 1.5": Variant(model="hvae-beta-1.5"),
    "beta 2": Variant(model="hvae-beta-2"),
    "weight decay 0.3": Variant(weight_decay=0.3),
}
"""By name. warmup_share: of the training, in which an ordered warm-up is over; the defaults have 160 steps."""
