"""The verdict: what the evidence says, in one sentence, and which policy it lets us recommend."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autopv.verify.blocks import Arm, Distance, complete_blocks
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.statistics import CONFIDENCE, MIN_BLOCKS, Comparison, compare_arms

Conclusion = Literal["pseudo video helps", "no gain shown", "pseudo video hurts", "not enough evidence"]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the complete blocks say: every usable arm against image-only, and the arms left out because a run failed.

    per_seed: arm -> its distances, one per complete block, None where a run failed.
    """

    seeds: tuple[int, ...]
    per_seed: dict[str, list[float | None]]
    failed: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The conclusion, the arm to recommend, the sentence to print, and the numbers behind them.

    per_seed: arm -> its distances, one per complete block, None where a run failed.
    """

    conclusion: Conclusion
    recommended: str
    sentence: str
    floor: float
    comparisons: tuple[Comparison, ...]
    per_seed: dict[str, list[float | None]]
    seeds: tuple[int, ...]
    failed: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        return asdict(self)


def reach_verdict(
    arms: Sequence[Arm],
    distances: Iterable[Distance],
    *,
    floor: float,
    trained_for: str,
    looked_after: Sequence[int] = (),
) -> Verdict:
    """The verdict on complete blocks alone; runs of an incomplete block are ignored.

    floor: the distance between two disjoint real sets at the same n; trained_for: the training length, in words;
    looked_after: numbers of seeds after which a verdict was read before: going on until one pleases finds gains that
    are none, and no interval here allows for it, so the sentence says it.
    An arm with a failed run is left out (and named): a policy that cannot be relied on is not recommended.
    """
    evidence = weigh([arm.name for arm in arms], distances, floor=floor)
    conclusion, recommended, sentence = _conclude(
        evidence.comparisons, num_seeds=len(evidence.seeds), trained_for=trained_for
    )
    looks = [number for number in looked_after if MIN_BLOCKS <= number < len(evidence.seeds)]
    if looks:
        before = ", ".join(str(number) for number in looks)
        sentence += f" Looked at before, after {before} seeds; the interval is that of a single look."
    if evidence.failed:
        sentence += f" Left out, because a run failed: {', '.join(evidence.failed)}."
    return Verdict(
        conclusion=conclusion,
        recommended=recommended,
        sentence=sentence,
        floor=floor,
        comparisons=evidence.comparisons,
        per_seed=evidence.per_seed,
        seeds=evidence.seeds,
        failed=evidence.failed,
    )


def weigh(arms: Sequence[str], distances: Iterable[Distance], *, floor: float) -> Evidence:
    """What complete blocks of these arms show, while others are still under way too."""
    results = tuple(distances)
    seeds = complete_blocks(results, arms=arms)
    by_run = {(result.arm, result.seed): result.distance for result in results}
    per_seed = {name: [by_run[name, seed] for seed in seeds] for name in arms}
    failed = tuple(name for name, values in per_seed.items() if any(value is None for value in values))
    usable = {
        name: [value for value in values if value is not None]
        for name, values in per_seed.items()
        if name not in failed
    }
    comparisons = compare_arms(usable, reference=IMAGE_ONLY, floor=floor) if seeds and IMAGE_ONLY in usable else ()
    return Evidence(seeds=seeds, per_seed=per_seed, failed=failed, comparisons=comparisons)


def _conclude(comparisons: Sequence[Comparison], *, num_seeds: int, trained_for: str) -> tuple[Conclusion, str, str]:
    others = sorted((c for c in comparisons if c.arm != IMAGE_ONLY), key=lambda c: c.mean_distance)
    if num_seeds < MIN_BLOCKS or not others:
        seeds = "no fresh seed" if num_seeds == 0 else f"{num_seeds} fresh seed{'s' * (num_seeds > 1)}"
        seen = ""
        if others and others[0].gain is not None:
            seen = f" So far {others[0].arm} shows {_percent(others[0].gain)} against image-only, which may be luck."
        return (
            "not enough evidence",
            IMAGE_ONLY,
            (
                f"Not enough evidence: {seeds} per arm after {trained_for}; an interval needs {MIN_BLOCKS}.{seen} "
                "Until then image-only training is recommended."
            ),
        )
    best = others[0]
    if best.gain is None:
        return (
            "no gain shown",
            IMAGE_ONLY,
            (
                f"No gain to be had after {trained_for}: image-only training is at the floor, as near to real images "
                "as another set of real images."
            ),
        )
    assert best.gain_low is not None
    assert best.gain_high is not None
    interval = (
        f"{CONFIDENCE:.0%} interval {_percent(best.gain_high)} to {_percent(best.gain_low)}, {num_seeds} fresh seeds"
    )
    if best.gain_low > 0:
        # All differences between two arms have the same interval width, so this is the interval of theirs.
        ties = [c.arm for c in others[1:] if c.gain is not None and c.gain > best.gain_low]
        tie = f" Not told apart from it: {', '.join(ties)}." if ties else ""
        return (
            "pseudo video helps",
            best.arm,
            (
                f"Pseudo video helps: {best.arm} changes image-only's excess by {_percent(best.gain)} after "
                f"{trained_for} ({interval}).{tie} Longer trainings can turn this round."
            ),
        )
    if all(c.gain_high is not None and c.gain_high < 0 for c in others):
        return (
            "pseudo video hurts",
            IMAGE_ONLY,
            (
                f"Pseudo video hurts: even the best arm, {best.arm}, changes image-only's excess by "
                f"{_percent(best.gain)} after {trained_for} ({interval}). Image-only training is recommended."
            ),
        )
    return (
        "no gain shown",
        IMAGE_ONLY,
        (
            f"No gain shown: the best arm, {best.arm}, changes image-only's excess by {_percent(best.gain)} after "
            f"{trained_for} ({interval}), which includes no change. Image-only training is recommended."
        ),
    )


def _percent(gain: float) -> str:
    """A gain as a change of excess: a gain of 0.13 is -13%."""
    return f"{-100 * gain:+.0f}%"
