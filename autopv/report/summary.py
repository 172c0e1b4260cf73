"""The summary of a run: the table of arms, where the budget went, and the verdict."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autopv.errors import RunFolderError
from autopv.report.class_table import ClassTable, class_table, compared_arms
from autopv.report.numbers import distance_text
from autopv.search.budget import Budget
from autopv.search.extension import current_budget
from autopv.search.ledger import Ledger
from autopv.search.records import STATES
from autopv.search.run_folder import RunFolder
from autopv.search.study_file import read_study
from autopv.verify.controls import IMAGE_ONLY

# Beside excesses and intervals a seed's distance needs no digit after the point from here on.
_COARSE = 100
_USE_NAMES = {"startup": "start-up", "other": "other (waiting, saving, lost in crashes)"}


def read_result(folder: RunFolder) -> Mapping[str, Any]:
    """The result of a concluded run. Raises: RunFolderError where there is none yet."""
    if not folder.result.exists():
        raise RunFolderError(f"{folder.path} has no result yet; `autopv resume {folder.path}` goes on with it.")
    result: Mapping[str, Any] = json.loads(folder.result.read_text(encoding="utf-8"))
    return result


def summary_text(result: Mapping[str, Any], *, folder: Path) -> str:
    """The summary that ends a run: verified arms (or, without any, the trials), budget, files, verdict."""
    verdict = result["verdict"]
    parts = [_arms_table(result) if verdict["seeds"] else _trials_table(result)]
    table = class_table(result, arms=compared_arms(result))
    if table is not None:
        parts.append(_classes_text(table))
    use = result["use_s"]
    spent = result["spent_s"]
    budget = Budget.parse(result["budget"])
    of = f" of {budget.device_s / 60:.1f}" if budget.device_s is not None else ""
    phases = result["spent_by_phase_s"]
    parts.append(
        f"Spent {spent / 60:.1f}{of} {budget.device}-min: search {phases['search'] / 60:.1f}, "
        f"verification {phases['verify'] / 60:.1f}; {_uses_text(use)}. "
        f"Trials: {_trial_counts(result['trials'])}."
    )
    best = result["best_found"]
    parts.append(_best_found_text(best, settings=result["settings"]) if best else "The search found no policy.")
    parts.append(f"Recommended: {result['recommended_policy']}")
    files = [
        name
        for name in ("policy.json", "best_found.json", "model", "preview.png", "samples.png")
        if (folder / name).exists()
    ]
    parts.append(f"In {folder}: {', '.join(files)}")
    parts.append(verdict["sentence"])
    if result.get("outlook") and result["outlook"] not in verdict["sentence"]:
        parts.append(result["outlook"])
    return "\n\n".join(parts)


def _best_found_text(best: Mapping[str, Any], *, settings: Mapping[str, Any]) -> str:
    """The best policy that was searched, and what is expected of it."""
    text = f"Best found by the search: {best['policy']} ({best['trial']}"
    runs = best.get("num_runs", 1)  # runs of earlier versions do not tell
    text += f", {runs} run{'s' * (runs > 1)}" if "num_runs" in best else ""
    if not best.get("change"):
        return text + ")"
    change, low, high = best["change"]
    steps = max(settings["trial_steps"], settings.get("train_steps") or 0)
    return text + f"; expected against image-only after {steps} steps: {change:+.0%}, {low:+.0%} to {high:+.0%})"


def status_text(folder: RunFolder) -> str:
    """Where a run stands, also while it works."""
    settings = folder.settings()
    ledger = Ledger(folder.ledger, read_only=True)
    try:
        phase = str(ledger.get_state("phase") or "search")
        spent_s = {name: ledger.spent_s(phase=name) for name in ("search", "verify")}
        use_s = {name: ledger.usage(phase=name) for name in spent_s}
        verified = ledger.verification()
        budget = current_budget(ledger, settings)
    finally:
        ledger.close()
    records, rejected = read_study(folder.study)
    spent = sum(spent_s.values())
    names = {"search": "searching", "verify": "verifying", "done": "done"}
    lines = [
        f"Run {folder.path}: {names[phase]}; data {settings.data}, model {settings.model}/{settings.preset}, "
        f"trials of {settings.trial_steps} steps, seed {settings.seed}",
        f"Budget {budget}: {spent / 60:.1f} {budget.device}-min spent"
        + (f", {max(0.0, budget.device_s - spent) / 60:.1f} left" if budget.device_s is not None else ""),
        *(
            f"  {title:<13}{spent_s[name] / 60:6.1f} {budget.device}-min: {_uses_text(use_s[name])}"
            for name, title in (("search", "search"), ("verify", "verification"))
            if spent_s[name] > 0
        ),
        f"Trials: {_trial_counts([{'state': record.state} for record in records])}; verification runs: {len(verified)}",
    ]
    if rejected:
        lines.append(
            f"Not tried: {rejected} proposals, whose frames leave less than R^2 = {settings.screen:g} of the image"
        )
    complete = sorted((r.distance, r.label, r.policy.describe()) for r in records if r.distance is not None)
    lines += [f"  {label:<16} {distance_text(distance):>9}  {policy}" for distance, label, policy in complete[:5]]
    if phase != "done":
        lines.append(f"To go on after an interruption: autopv resume {folder.path}")
    return "\n".join(lines)


def _arms_table(result: Mapping[str, Any]) -> str:
    verdict = result["verdict"]
    policies = {arm["name"]: arm["policy"] for arm in result["arms"]}
    rows = []
    for c in sorted(verdict["comparisons"], key=lambda c: c["mean_distance"]):
        if c["gain"] is None:
            change, interval = "reference" if c["arm"] == IMAGE_ONLY else "-", ""
        else:
            change = f"{-100 * c['gain']:+.1f}%"
            interval = "" if c["gain_low"] is None else f"[{-100 * c['gain_high']:+.0f}%, {-100 * c['gain_low']:+.0f}%]"
        seeds = " ".join(
            "failed" if distance is None else _seed_text(distance) for distance in verdict["per_seed"][c["arm"]]
        )
        rows.append([c["arm"], distance_text(c["mean_excess"]), change, interval, seeds, policies[c["arm"]]])
    metric = result["metrics"]["final"]
    head = (
        f"Verification on the final split: {metric['name']} ({metric['input_size_px']} px, "
        f"n = {metric['num_images']}), floor {distance_text(verdict['floor'])}; {len(verdict['seeds'])} fresh "
        f"seed{'s' * (len(verdict['seeds']) > 1)} per arm, "
        f"{result['settings']['trial_steps']} image-only steps' worth of compute each"
    )
    return head + "\n" + _table(["arm", "excess", "change", "95% interval", "distance by seed", "policy"], rows)


def _classes_text(table: ClassTable) -> str:
    head = (
        f"Within each class, on the final split: {table.metric}, mean over the seeds (±: 95% interval of one seed over "
        "draws of images; 0 would be perfect)"
    )
    few = f"\nToo few real images to be measured: {', '.join(table.too_few)}" if table.too_few else ""
    return f"{head}\n{_table(table.header, table.rows)}{few}"


def _trials_table(result: Mapping[str, Any]) -> str:
    floor = result["floors"]["search"]
    complete = sorted((t for t in result["trials"] if t["distance"] is not None), key=lambda t: t["distance"])
    rows = [
        [t.get("label") or t["control"] or t["key"], distance_text(t["distance"] - floor), t["policy"]]
        for t in complete
    ]
    head = f"Trials at full compute on the search split (one training each; floor {distance_text(floor)})"
    return head + "\n" + _table(["trial", "excess", "policy"], rows)


def _seed_text(distance: float) -> str:
    return f"{distance:.0f}" if distance >= _COARSE else distance_text(distance)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    )


def _trial_counts(trials: Sequence[Mapping[str, Any]]) -> str:
    states = [trial["state"] for trial in trials]
    counted = [f"{states.count(state)} {state}" for state in STATES if state in states]
    return ", ".join(counted) or "none"


def _uses_text(use_s: Mapping[str, float]) -> str:
    """Shares of what was spent, by use."""
    whole = sum(use_s.values())
    return ", ".join(f"{_USE_NAMES.get(use, use)} {_share(part, whole)}" for use, part in use_s.items())


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole > 0 else "0%"
