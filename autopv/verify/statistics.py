"""Differences from image-only with simultaneous intervals, from blocks that share their seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIN_BLOCKS = 3
"""Below this many fresh seeds per arm no interval is stated."""
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against image-only. Differences are in excess (equal to those in distance, the floor being common).

    gain: share of image-only's excess that the arm takes away (positive is better); gain_low and gain_high bound it
    with `CONFIDENCE` for all arms at once, and are None below `MIN_BLOCKS` blocks.
    """

    arm: str
    num_seeds: int
    mean_distance: float
    mean_excess: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)


def compare_arms(distances: Mapping[str, Sequence[float]], *, reference: str, floor: float) -> tuple[Comparison, ...]:
    """Every arm against the reference arm, in the order given; the reference's own gain is None.

    distances: arm -> one distance per block, blocks in the same order for every arm.

    A randomised block design: arm and block effects are fitted, the residual variance is pooled over all arms (3 seeds
    of one arm alone would say next to nothing), and t intervals are widened by Bonferroni for the number of arms.
    Pooling assumes that arms vary alike; it is checked by nothing, so `per_seed` values are always shown beside.

    Raises:
        ValueError: unequal numbers of blocks, or no reference.
    """
    num_blocks = len(distances[reference])
    if any(len(values) != num_blocks for values in distances.values()):
        raise ValueError("every arm needs one distance per block")
    if num_blocks == 0:
        return ()
    means = {arm: sum(values) / num_blocks for arm, values in distances.items()}
    half_width = _half_width(distances, means=means) if num_blocks >= MIN_BLOCKS and len(distances) > 1 else None
    reference_excess = means[reference] - floor

    def share(difference: float) -> float | None:
        return difference / reference_excess if reference_excess > 0 else None

    comparisons = []
    for arm in distances:
        saved = means[reference] - means[arm]
        bounded = arm != reference and half_width is not None
        comparisons.append(
            Comparison(
                arm=arm,
                num_seeds=num_blocks,
                mean_distance=means[arm],
                mean_excess=means[arm] - floor,
                gain=None if arm == reference else share(saved),
                gain_low=share(saved - half_width) if bounded and half_width is not None else None,
                gain_high=share(saved + half_width) if bounded and half_width is not None else None,
            )
        )
    return tuple(comparisons)


def _half_width(distances: Mapping[str, Sequence[float]], *, means: Mapping[str, float]) -> float:
    """Half the width of the simultaneous interval of a difference of two arm means."""
    from scipy.stats import t

    num_arms, num_blocks = len(distances), len(next(iter(distances.values())))
    grand = sum(means.values()) / num_arms
    block_means = [sum(values[b] for values in distances.values()) / num_arms for b in range(num_blocks)]
    residual = sum(
        (value - means[arm] - block_means[b] + grand) ** 2
        for arm, values in distances.items()
        for b, value in enumerate(values)
    )
    freedom = (num_arms - 1) * (num_blocks - 1)
    tail = (1 - CONFIDENCE) / (2 * (num_arms - 1))
    return float(t.ppf(1 - tail, freedom)) * math.sqrt(residual / freedom * 2 / num_blocks)
