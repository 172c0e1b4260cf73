"""What the run was made with, and the commands to repeat it, go on with it and look into it."""

from collections.abc import Mapping, Sequence
from typing import Any

from autopv.models.base import model_names
from autopv.report.numbers import distance_text
from autopv.report.page.facts import Facts
from autopv.report.page.words import command, date_words
from autopv.training.plan import TrainingPlan
from autopv.verify.statistics import MIN_BLOCKS


def setting_values(facts: Facts) -> dict[str, Any]:
    """All that must be equal for the numbers to be met again, and what to do next with the run."""
    settings = facts.settings
    versions = dict(settings.versions)
    planned = next((event for event in facts.events if event["event"] == "planned"), None)
    pairs: list[tuple[str, str]] = [
        ("Images", f"{settings.data}: {settings.num_images} at {settings.size_px} px, {_channel_words(facts)}"),
        ("Digest of the data", settings.data_digest),
    ]
    if planned is not None:
        train, search, final = planned["splits"]
        pairs.append(("Splits", f"{train} to train on, {search} to search with, {final} for the verification alone"))
    metrics = {} if facts.result is None else facts.result["metrics"]
    names = {"search": "Metric of the search", "final": "Metric of the verdict"}
    for split, name in names.items():
        if split in metrics:
            pairs.append((name, f"{metric_words(metrics[split])}, floor {distance_text(facts.floors[split])}"))
    if not metrics:
        pairs.append(("Metric", f"{settings.metric}, n = {settings.metric_num_images}"))
    pairs += [
        ("Model", f"{settings.model}, preset {settings.preset}{', told the class of each image' * settings.classes}"),
        ("Search space", f"{settings.space} ({settings.space_digest[:12]})"),
        ("Sampler", f"{settings.sampler}, stopping {settings.stopping}, {settings.repeat_share:.0%} repeats"),
        ("Screen", _screen_words(facts)),
        (
            "Length of a training",
            f"the compute of {settings.trial_steps} image-only steps, {settings.trial_flops:.3g} FLOPs",
        ),
        (
            "Training it is for",
            "as long as a trial" if settings.train_steps is None else f"{settings.train_steps} image-only steps",
        ),
        ("Measured at", ", ".join(f"{rung:.0%}" for rung in settings.rungs) + " of a trial's compute"),
        ("Seed", str(settings.seed)),
        ("Fresh seeds", ", ".join(str(s) for s in facts.verdict["seeds"]) if facts.verdict else "none yet"),
        ("Workers", f"{settings.num_workers}, on {versions.pop('device', 'unknown')}"),
        ("Commit", versions.pop("commit", "unknown")),
        (
            "Versions",
            ", ".join(f"{name} {version}" for name, version in {"autopv": settings.autopv_version, **versions}.items()),
        ),
    ]
    if facts.events:
        pairs.append(("Ran", f"{date_words(facts.events[0]['time'])} to {date_words(facts.events[-1]['time'])}"))
    return {"pairs": pairs, "commands": _commands(facts)}


def data_flags(facts: Facts) -> Sequence[object]:
    """The flags that give any command the data, model, metric and seed of the run."""
    settings = facts.settings
    return (
        *("--data", settings.data, "--size", settings.size_px, "--channels", settings.channels),
        *("--group-by", settings.group_by, "--model", settings.model, "--preset", settings.preset),
        *("--metric", settings.metric, "--seed", settings.seed),
        *(("--classes",) if settings.classes else ()),
    )


def _screen_words(facts: Facts) -> str:
    if facts.settings.screen == 0:
        return "none: every proposed policy was tried"
    return (
        f"{facts.num_rejected} proposed policies were not tried, since their frames leave less of the image than "
        f"R^2 = {facts.settings.screen:g}"
    )


def metric_words(metric: Mapping[str, Any]) -> str:
    """A metric with all that its numbers depend on."""
    return f"{metric['name']} at {metric['input_size_px']} px, n = {metric['num_images']}"


def _commands(facts: Facts) -> list[tuple[str, str]]:
    """What to do next with this run: in words, and as commands."""
    settings, folder = facts.settings, facts.folder
    repeat = command(
        *("autopv", "search", *data_flags(facts), "--space", settings.space, "--budget", settings.budget),
        *("--seeds", settings.num_seeds, "--workers", settings.num_workers, "--trial-steps", settings.trial_steps),
        *("--trials-per-gpu", settings.trials_per_gpu if settings.trials_per_gpu > 1 else None),
        *("--sampler", settings.sampler, "--stopping", settings.stopping, "--repeats", settings.repeat_share),
        *("--screen", settings.screen),
        *("--train-for", settings.train_steps),
        *(("--warm-start", *settings.warm_start) if settings.warm_start else ()),
        *_plan_flags(settings.training, model=settings.model),
        *("--out", f"{folder}-again"),
    )
    commands = [("Repeat it", repeat)]
    if facts.verdict is None:
        commands.append(("Go on with it", command("autopv", "resume", folder)))
    commands.append(
        ("Search on, with as much again", command("autopv", "resume", folder, "--budget", f"+{settings.budget}"))
    )
    if facts.arms:
        commands.append(("Verify on more seeds", command("autopv", "resume", folder, "--more-seeds", MIN_BLOCKS)))
    commands += [
        ("Open the trials in optuna-dashboard", command("optuna-dashboard", f"sqlite:///{folder / 'study.db'}")),
        ("Open the curves in TensorBoard", command("tensorboard", "--logdir", folder / "tensorboard")),
    ]
    return commands


def _plan_flags(plan: Mapping[str, Any], *, model: str) -> list[object]:
    """The flags of a training plan that is not the default one, which without the family's package is not known."""
    usual = TrainingPlan.asked(model=model).to_dict() if model in model_names() else {}
    names = ("batch_size", "learning_rate", "kl_weight")
    changed = [name for name in names if name in plan and plan[name] != usual.get(name)]
    flags: list[object] = [part for name in changed for part in (f"--{name.replace('_', '-')}", plan[name])]
    return [*flags, "--flips"] if plan.get("horizontal_flips") else flags


def _channel_words(facts: Facts) -> str:
    return {1: "grey", 3: "colour"}.get(facts.settings.channels, f"{facts.settings.channels} channels")
