"""How a job ends: which arms are verified, the verdict, and the files that tell it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.class_distances import class_distances
from autopv.search.ledger import Ledger
from autopv.search.ranking import Expected, expected_results
from autopv.search.records import TrialRecord
from autopv.search.run_folder import RunFolder, RunSettings, write_json
from autopv.training.checkpoint import FILE_NAME
from autopv.training.material import Material
from autopv.verify.blocks import Arm, Distance
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.verdict import Verdict, reach_verdict

NUM_SEARCHED_ARMS = 2
_SPLITS = ("search", "final")
_PHASES = ("search", "verify")


def choose_arms(
    records: Sequence[TrialRecord], *, floor: float, length: float = 1.0, earlier: Sequence[Arm] = ()
) -> list[Arm]:
    """Every control, what was verified earlier, and the searched policies of which most is to be expected.

    floor: of the search split. length: of the training that counts, in full trials.
    An arm that has been verified stays one: whoever drops those that did badly has chosen on the final split.
    """
    arms = [Arm(name=r.control, kind="control", policy=r.policy) for r in records if r.control is not None]
    arms += [arm for arm in earlier if arm.kind == "searched"]
    digests = {arm.policy.digest for arm in arms}
    for result in _searched(expected_results(records, floor=floor, length=length))[:NUM_SEARCHED_ARMS]:
        if result.record.policy.digest not in digests:
            arms.append(Arm(name=result.record.label, kind="searched", policy=result.record.policy))
    return arms


def best_found(records: Sequence[TrialRecord], *, floor: float, length: float = 1.0) -> Expected | None:
    """The searched policy of which most is to be expected; a control where no other was run to the end."""
    return _best(expected_results(records, floor=floor, length=length))


def _best(results: Sequence[Expected]) -> Expected | None:
    """Of these, the best first, what `best_found` means."""
    policies = [result for result in results if not result.record.policy.is_image_only]
    searched = _searched(policies)
    return searched[0] if searched else next(iter(policies), None)


def _searched(results: Sequence[Expected]) -> list[Expected]:
    """Those of policies that are no controls."""
    return [result for result in results if result.record.control is None]


def stored_arms(ledger: Ledger) -> list[Arm]:
    """The arms under verification, once they are chosen."""
    stored = ledger.get_state("arms")
    return [Arm.from_dict(values) for values in stored] if isinstance(stored, list) else []


def stored_floor(ledger: Ledger, *, material: Material, split: str) -> float:
    """The floor of a split, which takes long to compute for a large n: once per run."""
    name = f"floor_{split}"
    floor = ledger.get_state(name)
    if not isinstance(floor, float):
        floor = material.floor(split)
        ledger.set_state(name, floor)
    return floor


def known_floor(folder: RunFolder, *, split: str) -> float:
    """The floor of a split as the run's ledger tells it; 0, which orders policies as well, where it does not."""
    if not folder.ledger.exists():
        return 0.0
    ledger = Ledger(folder.ledger, read_only=True)
    try:
        floor = ledger.get_state(f"floor_{split}")
    finally:
        ledger.close()
    return floor if isinstance(floor, float) else 0.0


def verified(ledger: Ledger) -> list[Distance]:
    """What every verification run so far has measured."""
    return [Distance(arm=run.arm, seed=run.seed, distance=run.distance) for run in ledger.verification()]


def trained_model(folder: RunFolder, *, arm: str, records: Sequence[TrialRecord]) -> Path | None:
    """The checkpoint folder of a trained model of an arm: a verification run where there is one, else its trial."""
    candidates = sorted((folder.path / "verify").glob(f"verify-{arm}-*"))
    candidates += [folder.item(r.key) for r in records if r.state == "complete" and arm in (r.label, r.key)]
    return next((path for path in candidates if (path / FILE_NAME).exists()), None)


def conclude(
    folder: RunFolder,
    *,
    settings: RunSettings,
    material: Material,
    ledger: Ledger,
    records: Sequence[TrialRecord],
    budget: Budget,
) -> Verdict:
    """The verdict; writes result.json, policy.json, best_found.json and model/ from what the folder holds."""
    arms = stored_arms(ledger)
    floors = {split: stored_floor(ledger, material=material, split=split) for split in _SPLITS}
    metrics = {split: material.metric(split).identity.to_dict() for split in _SPLITS}
    trained_for = f"{settings.trial_steps} image-only steps' worth of compute"
    looked_at = ledger.get_state("verdicts")
    earlier = [number for number in looked_at if isinstance(number, int)] if isinstance(looked_at, list) else []
    verdict = reach_verdict(
        arms, verified(ledger), floor=floors["final"], trained_for=trained_for, looked_after=earlier
    )
    results = expected_results(records, floor=floors["search"], length=settings.extrapolation)
    view = outlook(settings, verdict=verdict, results=results)
    if view is not None and not view.supported and verdict.recommended != IMAGE_ONLY:
        verdict = replace(
            verdict,
            conclusion="not enough evidence",
            recommended=IMAGE_ONLY,
            sentence=f"{verdict.sentence} {view.sentence} Until trials as long show it, image-only is recommended.",
        )
    if len(verdict.seeds) not in earlier:
        ledger.set_state("verdicts", [*earlier, len(verdict.seeds)])
    recommended = next((arm.policy for arm in arms if arm.name == verdict.recommended), Policy.image_only())
    origin = {
        "autopv_version": settings.autopv_version,
        "data": settings.data,
        "data_digest": settings.data_digest,
        "model": f"{settings.model}/{settings.preset}" + (" by class" if settings.classes else ""),
        "size_px": settings.size_px,
        "trained_for_flops": settings.trial_flops,
        "versions": dict(settings.versions),
    }
    evidence = {
        "metric": metrics["final"],
        "floor": floors["final"],
        "conclusion": verdict.conclusion,
        "verdict": verdict.sentence,
        "seeds": list(verdict.seeds),
        "comparison": next((c.to_dict() for c in verdict.comparisons if c.arm == verdict.recommended), None),
    }
    replace(recommended, provenance={**origin, **evidence}).save(folder.policy, overwrite=True)
    best = _best(results)
    if best is not None:
        runs = [record for record in records if record.policy.digest == best.record.policy.digest]
        runs = [record for record in runs if record.distance is not None]
        evidence = {
            "metric": metrics["search"],
            "floor": floors["search"],
            "distances": [record.distance for record in runs],
            "seeds": [record.seed for record in runs],
            "trial": best.record.key,
            "expected_change": best.change,
        }
        replace(best.record.policy, provenance={**origin, **evidence}).save(folder.best_found, overwrite=True)
    model = trained_model(folder, arm=verdict.recommended, records=records)
    if model is not None:
        shutil.rmtree(folder.model, ignore_errors=True)
        shutil.copytree(model, folder.model)
    result = {
        "settings": asdict(settings),
        "budget": str(budget),
        "verdict": verdict.to_dict(),
        "recommended_policy": recommended.describe(),
        "best_found": None if best is None else {"policy": best.record.policy.describe(), **_expected_dict(best)},
        "expected": [_expected_dict(one) for one in results],
        "outlook": None if view is None else view.sentence,
        "arms": [{"name": arm.name, "kind": arm.kind, "policy": arm.policy.describe()} for arm in arms],
        "floors": floors,
        "metrics": metrics,
        "classes": None
        if material.classes is None
        else class_distances(folder, ledger.verification(), class_names=material.classes.names),
        "spent_s": ledger.spent_s(),
        "spent_by_phase_s": {phase: ledger.spent_s(phase=phase) for phase in _PHASES},
        "use_s": dict(ledger.usage()),
        "use_by_phase_s": {phase: dict(ledger.usage(phase=phase)) for phase in _PHASES},
        "trials": [_trial_dict(record) for record in records],
    }
    write_json(folder.result, result)
    return verdict


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What the trials let us expect of a longer training. supported: whether that excludes no change."""

    sentence: str
    supported: bool


def outlook(settings: RunSettings, *, verdict: Verdict, results: Sequence[Expected]) -> Outlook | None:
    """What the looks at trials let us expect of the training that the search is for; None where it is a trial's length.

    results: of every policy at the length of that training, the best first.
    The arm in question is the one recommended or, where that is image-only, the best that was searched.
    """
    if settings.extrapolation == 1.0:
        return None
    arm = next((r for r in results if r.record.label == verdict.recommended != IMAGE_ONLY), None)
    arm = arm or _best(results)
    times = f"{settings.extrapolation:.3g} times as long as a trial"
    sentence = f"The training this is for, {settings.train_steps} image-only steps, is {times}."
    if arm is None or arm.change is None:
        return Outlook(sentence=f"{sentence} Nothing is known of it.", supported=False)
    change, low, high = arm.change
    known = "which is no more than a guess" if low < 0 < high else "if what trials showed so far goes on"
    return Outlook(
        sentence=(
            f"{sentence} There {arm.record.label} is expected to change image-only's excess by {change:+.0%} "
            f"({low:+.0%} to {high:+.0%}), {known}."
        ),
        supported=high < 0,
    )


def _expected_dict(result: Expected) -> dict[str, Any]:
    return {
        "trial": result.record.key,
        "label": result.record.label,
        "num_runs": result.num_runs,
        "change": result.change,
        "log_excess": result.log_excess,
        "sd": result.sd,
    }


def _trial_dict(record: TrialRecord) -> Mapping[str, Any]:
    return {
        "key": record.key,
        "control": record.control,
        "label": record.label,
        "repeats": record.repeats,
        "policy": record.policy.describe(),
        "state": record.state,
        "seed": record.seed,
        "looks": {str(fraction): distance for fraction, distance in record.looks.items()},
        "distance": record.distance,
        "failure": record.failure,
    }
