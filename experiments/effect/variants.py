"""Variants of the hierarchical VAE, each of which tests why the lead of a pseudo video fades; and other families."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from autopv.models.base import register_model
from autopv.models.hvae import PRESETS, Hvae

# An error that is nearly nothing must not pull without bound.
_SMALLEST_ERROR = 1e-5


@register_model("hvae-own-scale")
class OwnScale(Hvae):
    """Each pseudo frame is held to a scale of its own (the best one for its error) rather than to the image's.

    The image's scale falls all through a training, so that a fixed weight asks ever more precision of pseudo frames;
    with its own scale a frame pulls with the same force throughout.
    """

    def _frame_score(self, error: Tensor, *, log_scale: Tensor) -> Tensor:  # noqa: ARG002 - that is the variant
        return 0.5 * error.clamp(min=_SMALLEST_ERROR).log()


@dataclass(frozen=True)
class Variant:
    """A model's registered name and preset, and what of the plan differs from its defaults."""

    model: str = "hvae"
    preset: str = "tiny"
    plan: Mapping[str, float] = field(default_factory=dict)
    own_reference: bool = False
    """Whether image-only training is of this variant too; else it is told as one more arm beside the model's own."""


# Registered beside the shipped presets, for this process alone.
PRESETS["tiny-mixture"] = replace(PRESETS["tiny"], likelihood="logistic_mixture")
PRESETS["tiny-early"] = replace(PRESETS["tiny"], frame_levels=0.4)
Hvae.preset_sizes_px = {name: preset.sizes_px for name, preset in PRESETS.items()}

VARIANTS = {
    "": Variant(),
    "own": Variant(model="hvae-own-scale"),
    "mixture": Variant(preset="tiny-mixture"),
    "early": Variant(preset="tiny-early"),
    "KL 2": Variant(plan={"kl_weight": 2.0}, own_reference=True),
    "refine": Variant(model="refine", own_reference=True),
    "diffusion": Variant(model="diffusion", own_reference=True),
    "vq": Variant(model="vq", own_reference=True),
}
"""By name: as it is; own scales; a mixture of logistics; pseudo frames read off early, most levels for the image; KL
terms that count twice; the other families."""
