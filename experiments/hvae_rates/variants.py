"""Variants of the hierarchical VAE that weigh the rates of its levels in other ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autopv.models.base import register_model
from autopv.models.hvae import Hvae


@register_model("hvae-ordered")
class Ordered(Hvae):
    """The finest level pays its full rate from the start, the coarsest begins gently, those between evenly between.

    With a warm-up for all, the fine levels take in everything while it is cheap, and the coarse ones stay silent.
    """

    def _weighted_rate(self, kl_L: Tensor, *, kl_weight: Tensor) -> Tensor:
        place_L = torch.linspace(0, 1, len(kl_L), device=kl_L.device)
        return ((place_L + (1 - place_L) * kl_weight) * kl_L).sum()


@dataclass(frozen=True)
class Variant:
    """A model's registered name, and what of the plan differs from its defaults."""

    model: str = "hvae"
    warmup_share: float | None = None
    plan: Mapping[str, float] = field(default_factory=dict)


VARIANTS = {
    "defaults": Variant(),
    "ordered": Variant(model="hvae-ordered", warmup_share=1 / 3),
    "beta 1.5": Variant(plan={"kl_weight": 1.5}),
    "beta 2": Variant(plan={"kl_weight": 2.0}),
    "beta 4": Variant(plan={"kl_weight": 4.0}),
    "weight decay 0.3": Variant(plan={"weight_decay": 0.3}),
}
"""By name. warmup_share: of the training, in which an ordered warm-up is over; the defaults have 160 steps."""
