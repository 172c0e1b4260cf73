"""How a job ends: which arms are verified, the verdict, and the files that tell it."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.ledger import Ledger
from autopv.search.run_folder import RunFolder, RunSettings, write_json
from autopv.search.study import TrialRecord
from autopv.training.checkpoint import FILE_NAME
from autopv.training.material import Material
from autopv.verify.blocks import Arm, Distance
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.verdict import Verdict, reach_verdict

NUM_SEARCHED_ARMS = 2
_SPLITS = ("search", "final")
_PHASES = ("search", "verify")


def choose_arms(records: Sequence[TrialRecord], *, earlier: Sequence[Arm] = ()) -> list[Arm]:
    """Every control, what was verified earlier, and the searched policies with the least distance on the search split.

    An arm that has been verified stays one: whoever drops those that did badly has chosen on the final split.
    """
    arms = [Arm(name=r.control, kind="control", policy=r.policy) for r in records if r.control is not None]
    arms += [arm for arm in earlier if arm.kind == "searched"]
    digests = {arm.policy.digest for arm in arms}
    controls = {arm.policy.digest for arm in arms if arm.kind == "control"}
    best: dict[str, TrialRecord] = {}
    for record in _ranked(records):
        if record.control is None and record.policy.digest not in controls:
            best.setdefault(record.policy.digest, record)
    for digest, record in list(best.items())[:NUM_SEARCHED_ARMS]:
        if digest not in digests:
            arms.append(Arm(name=record.key, kind="searched", policy=record.policy))
    return arms


def best_found(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The searched policy with the least distance on the search split; a control where none was completed."""
    ranked = [record for record in _ranked(records) if record.control != IMAGE_ONLY]
    return next((record for record in ranked if record.control is None), ranked[0] if ranked else None)


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


def verified(ledger: Ledger) -> list[Distance]:
    """What every verification run so far has measured."""
    return [Distance(arm=run.arm, seed=run.seed, distance=run.distance) for run in ledger.verification()]


def trained_model(folder: RunFolder, *, arm: str, records: Sequence[TrialRecord]) -> Path | None:
    """The checkpoint folder of a trained model of an arm: a verification run where there is one, else its trial."""
    candidates = sorted((folder.path / "verify").glob(f"verify-{arm}-*"))
    candidates += [folder.item(r.key) for r in records if r.state == "complete" and arm in (r.control, r.key)]
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
    if len(verdict.seeds) not in earlier:
        ledger.set_state("verdicts", [*earlier, len(verdict.seeds)])
    recommended = next((arm.policy for arm in arms if arm.name == verdict.recommended), Policy.image_only())
    origin = {
        "autopv_version": settings.autopv_version,
        "data": settings.data,
        "data_digest": settings.data_digest,
        "model": f"{settings.model}/{settings.preset}",
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
    best = best_found(records)
    if best is not None:
        evidence = {
            "metric": metrics["search"],
            "floor": floors["search"],
            "distance": best.distance,
            "seeds": [best.seed],
            "trial": best.key,
        }
        replace(best.policy, provenance={**origin, **evidence}).save(folder.best_found, overwrite=True)
    model = trained_model(folder, arm=verdict.recommended, records=records)
    if model is not None:
        shutil.rmtree(folder.model, ignore_errors=True)
        shutil.copytree(model, folder.model)
    result = {
        "settings": asdict(settings),
        "budget": str(budget),
        "verdict": verdict.to_dict(),
        "recommended_policy": recommended.describe(),
        "best_found": None if best is None else {"trial": best.key, "policy": best.policy.describe()},
        "arms": [{"name": arm.name, "kind": arm.kind, "policy": arm.policy.describe()} for arm in arms],
        "floors": floors,
        "metrics": metrics,
        "spent_s": ledger.spent_s(),
        "spent_by_phase_s": {phase: ledger.spent_s(phase=phase) for phase in _PHASES},
        "use_s": dict(ledger.usage()),
        "use_by_phase_s": {phase: dict(ledger.usage(phase=phase)) for phase in _PHASES},
        "trials": [_trial_dict(record) for record in records],
    }
    write_json(folder.result, result)
    return verdict


def _ranked(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Trials that ran at full compute, the least distance first."""
    complete = [(record.distance, record) for record in records if record.distance is not None]
    return [record for _, record in sorted(complete, key=lambda pair: pair[0])]


def _trial_dict(record: TrialRecord) -> Mapping[str, Any]:
    return {
        "key": record.key,
        "control": record.control,
        "policy": record.policy.describe(),
        "state": record.state,
        "seed": record.seed,
        "looks": {str(fraction): distance for fraction, distance in record.looks.items()},
        "distance": record.distance,
        "failure": record.failure,
    }
