"""Which policies of a search are best, by what is to be expected of them rather than by their luckiest run."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from autopv.policy import Policy
from autopv.search.belief import Belief, Sighting
from autopv.search.records import TrialRecord
from autopv.verify.controls import IMAGE_ONLY

T = TypeVar("T")

# A policy is worth another run if it is among the best, had it the luck of so many standard deviations: the more often
# it was run, the less is left to hope for. In a simulation by hand, 1 to 2 were about equally good.
_HOPE = 1.5
# Solving takes the cube of the number of looks. Of more policies than this, the better half and an even choice of the
# others stand for all; of those that were stopped an even choice of half as many does.
_MOST_POLICIES = 200


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is to be expected of a policy that was run to the end at least once.

    record: its first complete trial. num_runs: complete ones. change: of the excess against image-only training, as a
    share of it, at the length that was asked for, with its 95% interval; None where image-only was not run to the end.
    """

    record: TrialRecord
    num_runs: int
    log_excess: float
    sd: float
    change: tuple[float, float, float] | None


def expected_results(records: Sequence[TrialRecord], *, floor: float, length: float = 1.0) -> list[Expected]:
    """Every policy that was run to the end, the best one first.

    floor: of the split that ranks trials. length: of the training that counts, in full trials. All looks are used, also
    early ones and those at trials that were stopped: what they tell of that length, and of policies like these.
    """
    runs = _complete_runs(records)
    if not runs:
        return []
    firsts = [own[0] for own in runs.values()]
    belief = _belief(records, runs=runs, floor=floor)
    expectation = belief.expect([record.policy for record in firsts], length=length)
    deviations = expectation.deviations()
    reference = next((i for i, record in enumerate(firsts) if record.policy.is_image_only), None)
    results = [
        Expected(
            record=record,
            num_runs=len(runs[record.policy.digest]),
            log_excess=float(expectation.mean_P[i]),
            sd=float(deviations[i]),
            change=None if reference is None else expectation.change(i, reference=reference),
        )
        for i, record in enumerate(firsts)
    ]
    return sorted(results, key=lambda result: (result.log_excess, result.record.key))


def worth_repeating(records: Sequence[TrialRecord], *, floor: float) -> TrialRecord | None:
    """The trial whose policy to run once more: the searched one that may yet be best; none that is running now."""
    running = {record.policy.digest for record in records if record.state == "running"}
    controls = {record.policy.digest for record in records if record.control is not None}
    hoped = [
        (result.log_excess - _HOPE * result.sd, result.record.key, result.record)
        for result in expected_results(records, floor=floor)
        if result.record.policy.digest not in running | controls
    ]
    return min(hoped)[2] if hoped else None


def most_promising(
    records: Sequence[TrialRecord], candidates: Sequence[Policy], *, floor: float, seed: int
) -> list[Policy]:
    """The candidates, best first, in one world drawn from what is known; empty before anything is.

    Searches with many workers propose different ones, since each proposal has a draw of its own. Source: Thompson
    sampling (Russo et al., arXiv 1707.02038), of what candidates share with others: their own luck says nothing yet.
    """
    runs = _complete_runs(records)
    if not runs or not candidates:
        return []
    drawn_P = _belief(records, runs=runs, floor=floor).expect(candidates, shared=True).draw(seed=seed)
    return [candidates[i] for i in drawn_P.argsort().tolist()]


def _complete_runs(records: Sequence[TrialRecord]) -> dict[str, list[TrialRecord]]:
    """Digest -> complete trials of that policy, the first one first."""
    runs: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.distance is not None:
            runs.setdefault(record.policy.digest, []).append(record)
    return runs


def _belief(records: Sequence[TrialRecord], *, runs: dict[str, list[TrialRecord]], floor: float) -> Belief:
    kept = _representatives(runs)
    stopped = [record for record in records if record.looks and record.policy.digest not in runs]
    used = [record for record in records if record.looks and record.policy.digest in kept]
    used += _even_choice(stopped, most=_MOST_POLICIES // 2)
    sightings = [
        Sighting(policy=record.policy, seed=record.seed, length=length, distance=distance)
        for record in used
        for length, distance in record.looks.items()
    ]
    return Belief(sightings, floor=floor)


def _representatives(runs: dict[str, list[TrialRecord]]) -> set[str]:
    """The digests of the policies that the effects are fitted to, image-only among them."""
    best_first = sorted(runs, key=lambda digest: fmean(run.distance or 0.0 for run in runs[digest]))
    half = _MOST_POLICIES // 2
    image_only = [digest for digest, own in runs.items() if own[0].control == IMAGE_ONLY]
    return {*best_first[:half], *_even_choice(best_first[half:], most=half), *image_only}


def _even_choice(items: Sequence[T], *, most: int) -> Sequence[T]:
    """Every so many-th of them, at most so many."""
    return items[:: max(1, -(-len(items) // most))]
