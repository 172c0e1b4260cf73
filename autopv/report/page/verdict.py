"""What the run says to do: the headline, the recommendation and the command to go on with it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from autopv.policy import Policy
from autopv.report.page.facts import Facts
from autopv.report.page.setting import data_flags
from autopv.report.page.words import change_words, command, date_words, policy_words, time_words
from autopv.search.records import STATES
from autopv.verify.controls import IMAGE_ONLY
from autopv.verify.statistics import MIN_BLOCKS


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The verdict in one plain sentence, and what kind it is: good, neutral, open or bad."""

    kind: str
    label: str
    sentence: str


def headline(facts: Facts) -> Headline:
    """What a reader who reads nothing else should know."""
    if facts.verdict is None:
        return _unfinished_headline(facts)
    conclusion, recommended = facts.verdict["conclusion"], facts.verdict["recommended"]
    comparison = next((c for c in facts.verdict["comparisons"] if c["arm"] == recommended), None)
    if conclusion == "pseudo video helps" and comparison is not None:
        gain, low, high = (round(100 * comparison[name]) for name in ("gain", "gain_low", "gain_high"))
        sentence = (
            f"Train with the pseudo videos recommended here: they bring generated images {gain}% nearer to real ones "
            f"({low}% to {high}%) than training on the images alone."
        )
        return Headline(kind="good", label=conclusion, sentence=sentence)
    if conclusion == "pseudo video hurts":
        sentence = "Train on the images alone: every pseudo video that was verified makes the generated images worse."
        return Headline(kind="bad", label=conclusion, sentence=sentence)
    if conclusion == "no gain shown":
        sentence = "Train on the images alone: no pseudo video was shown to make the generated images better."
        return Headline(kind="neutral", label=conclusion, sentence=sentence)
    sentence = "There is not enough evidence to choose a pseudo video yet; until there is, train on the images alone."
    return Headline(kind="open", label=conclusion, sentence=sentence)


def verdict_values(facts: Facts) -> dict[str, Any]:
    """What is recommended and how to go on with it, or that there is nothing to recommend yet."""
    settings, verdict = facts.settings, facts.verdict
    recommended, sentence, policy_line, words = None, None, None, None
    if verdict is not None:
        recommended, sentence = verdict["recommended"], verdict["sentence"]
        policy = facts.policy(recommended) or Policy.image_only()
        policy_line, words = policy.describe(), policy_words(policy)
    train = command(
        *("autopv", "train", "--policy", facts.folder / "policy.json", *data_flags(facts)),
        *("--steps", settings.trial_steps, "--out", f"{facts.folder}-trained"),
    )
    return {
        "sentence": sentence,
        "recommended": recommended,
        "words": words,
        "policy_line": policy_line,
        "image_only": recommended == IMAGE_ONLY,
        "train": train if verdict is not None else None,
        "resume": f"autopv resume {command(facts.folder)}",
        "trial_steps": settings.trial_steps,
        "last_sign": None if facts.last_sign_s is None else date_words(facts.last_sign_s),
        "at_work": facts.at_work,
        "so_far": _so_far(facts),
        "tiles": _tiles(facts),
        "more_seeds": command("autopv", "resume", facts.folder, "--more-seeds", MIN_BLOCKS)
        if verdict is not None and verdict["comparisons"] and verdict["conclusion"] == "not enough evidence"
        else None,
    }


def _unfinished_headline(facts: Facts) -> Headline:
    doing = "searching" if facts.phase == "search" else "verifying"
    if facts.at_work:
        return Headline(kind="open", label=doing, sentence=f"There is no verdict yet: the run is {doing}.")
    sentence = f"There is no verdict yet: the run stopped while {doing}, and can be gone on with."
    return Headline(kind="open", label="not finished", sentence=sentence)


def _so_far(facts: Facts) -> str:
    ended = sum(record.state != "running" for record in facts.records)
    parts = [f"{ended} trial{'s' * (ended != 1)} ended"]
    if facts.phase == "verify":
        runs = len(facts.verification)
        parts.append(f"{runs} verification run{'s' * (runs != 1)} done")
    if facts.budget.device_s is not None:
        parts.append(f"{facts.spent_s / facts.budget.device_s:.0%} of the budget spent")
    return ", ".join(parts)


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """Key numbers: name, value, remark."""
    tiles = []
    if facts.verdict is not None:
        others = [c for c in facts.verdict["comparisons"] if c["gain"] is not None]
        if others:
            best = min(others, key=lambda c: c["mean_distance"])
            bounds = "no interval yet"
            if best["gain_low"] is not None:
                bounds = f"95% interval {change_words(best['gain_high'])} to {change_words(best['gain_low'])}"
            tiles.append((f"Best arm, {best['arm']}, against image-only", change_words(best["gain"]), bounds))
        seeds = len(facts.verdict["seeds"])
        tiles.append(("Fresh seeds per arm", str(seeds), f"an interval needs {MIN_BLOCKS}"))
    spent = time_words(facts.spent_s, device=facts.budget.device)
    of = f"of {facts.budget}"
    tiles.append(("Spent", spent, of if facts.budget.device_s is not None else f"budget: {facts.budget}"))
    counts = Counter(record.state for record in facts.records)
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    tiles.append(("Trials", str(len(facts.records)), states or "none started"))
    return tiles
