"""How a family that samples in many passes does it."""

import math
from dataclasses import dataclass

from autopv.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many passes, and what happens in them.

    num_steps: of the sampler. churn: how much noise is taken away and added anew on the way, over all steps; 0: none,
    so that the samples are a function of the noise they start from. guidance: how far to go from what would be drawn
    without the class towards what its class asks for; 1: just there, above: further (twice the passes).
    """

    num_steps: int
    churn: float = 0.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ModelError(f"sampling takes at least 1 step, but got num_steps={self.num_steps}")
        if not 0 <= self.churn < math.inf:
            raise ModelError(f"churn must be a number from 0 on, but got churn={self.churn}")
        if not 0 <= self.guidance < math.inf:
            raise ModelError(f"guidance must be a number from 0 on, but got guidance={self.guidance}")
