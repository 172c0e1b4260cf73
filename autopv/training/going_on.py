"""The course of a full training at its beginning, and when it is gone on with: unchanged, or forced to change."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autopv import __version__
from autopv.errors import CheckpointError, InputError
from autopv.training.checkpoint import (
    BEST_FOLDER,
    FILE_NAME,
    CheckpointInfo,
    check_same_model,
    read_info,
    resume_checkpoint,
    training_differences,
)
from autopv.training.course import Course, end_step, look_fractions, start_step
from autopv.training.trainer import Trainer

_FLAGS = {"plan.total_flops": "--steps", "num_looks": "--looks", "patience": "--patience", "policy": "--policy"}
_FLAGS |= {"seed": "--seed", "metric": "--metric", "trained_on": "--all-images", "data_digest": "--data"}
_FLAGS |= {"plan.batch_size": "--batch-size", "plan.learning_rate": "--learning-rate"}
_FLAGS |= {"plan.kl_weight": "--kl-weight", "plan.horizontal_flips": "--flips"}
# Differences that leave the looks so far as good as they were.
_HARMLESS = ("autopv_version", "num_looks", "patience")


def begin(trainer: Trainer, fresh: Course) -> Course:
    """The course that `fresh` asks for, with its looks placed."""
    return replace(fresh, fractions=look_fractions(fresh.num_looks, total_steps=trainer.total_steps))


def go_on(trainer: Trainer, folder: Path, fresh: Course, *, force: bool, note: Callable[[str], None]) -> Course:
    """The stored course; `trainer` has taken over the stored state then. `fresh` is what is asked for now.

    Where both differ, `force` goes on as asked for now, from the trunk: with another policy (of equally many frames),
    length, seed, data or metric the looks so far are forgotten and a look under way is dropped; `note` hears of it.

    Raises:
        CheckpointError: nothing to go on with, or (without `force`, except for the model) another training.
        InputError: a length that the training has already passed.
    """
    path = folder / FILE_NAME
    info = read_info(folder)
    stored = info.course
    if stored is None:
        raise CheckpointError(f"{path} is no full training's, but of a search's trial: train into another folder")
    check_same_model(info, trainer, path=path)
    differences = _differences(info, stored, trainer=trainer, fresh=fresh)
    told = "; ".join(f"{_label(name)} was {old}, but is now {new}" for name, (old, new) in differences.items())
    if differences and not force:
        raise CheckpointError(
            f"{path} belongs to another training: {told}. Resume with the same settings, or go on under these by "
            f"--force ({_price(differences)})"
        )
    resume_checkpoint(trainer, folder, force=force)
    if (info.torch_version, info.device_type) != (torch.__version__, trainer.device.type):
        note(
            f"So far this training ran with torch {info.torch_version} on {info.device_type}, now with torch "
            f"{torch.__version__} on {trainer.device.type}: it goes on, but not bit for bit."
        )
    if not differences:
        return stored
    note(f"Going on under other settings (--force): {told}.")
    keeps_looks = all(name in _HARMLESS for name in differences)
    course = replace(
        stored if keeps_looks else fresh,
        num_looks=fresh.num_looks,
        patience=fresh.patience,
        fractions=_fractions(trainer, looks=fresh.num_looks, stored=stored, keeps_looks=keeps_looks, path=path),
    )
    if keeps_looks:
        return course
    if info.look_end_step is not None and trainer.look is None and info.position > trainer.position:
        note(f"Dropped: the decay of {info.position - trainer.position} steps that was under way or done last.")
    if stored.looks:
        note(f"Forgotten: the {len(stored.looks)} looks so far.")
    best, kept = folder / BEST_FOLDER, folder / f"{BEST_FOLDER}-before-step-{trainer.trunk_position:06d}"
    if best.exists() and not kept.exists():
        best.rename(kept)
        note(f"The best model so far is kept in {kept}.")
    # Steps that are done again must not appear twice on one curve.
    return replace(course, log_folder=f"logs/from-step-{trainer.trunk_position:06d}")


def _differences(
    info: CheckpointInfo, stored: Course, *, trainer: Trainer, fresh: Course
) -> dict[str, tuple[object, object]]:
    """By name, the (stored, given) settings that differ."""
    found: dict[str, tuple[object, object]] = {}
    if info.autopv_version != __version__:
        found["autopv_version"] = (info.autopv_version, __version__)
    found |= training_differences(info, trainer)
    for name in ("trained_on", "num_looks", "patience"):
        if getattr(stored, name) != getattr(fresh, name):
            found[name] = (getattr(stored, name), getattr(fresh, name))
    if stored.metric != fresh.metric:
        found["metric"] = (_metric_text(stored.metric, fresh.metric), _metric_text(fresh.metric, stored.metric))
    return found


def _fractions(trainer: Trainer, *, looks: int, stored: Course, keeps_looks: bool, path: Path) -> tuple[float, ...]:
    """Where the looks are that are kept, and then those that can still be taken."""
    taken = tuple(look.fraction for look in stored.looks) if keeps_looks else ()
    total, decay = trainer.total_steps, trainer.plan.decay_fraction

    def is_ahead(fraction: float) -> bool:
        if taken and fraction <= taken[-1]:
            return False
        under_way = trainer.look is not None and trainer.look.end_step == end_step(fraction, total_steps=total)
        begins = start_step(fraction, total_steps=total, decay_fraction=decay)
        return under_way or begins >= trainer.trunk_position

    ahead = tuple(fraction for fraction in look_fractions(looks, total_steps=total) if is_ahead(fraction))
    if not ahead and not taken:
        raise InputError(
            f"a training of {total} steps begins its last decay at step "
            f"{start_step(1.0, total_steps=total, decay_fraction=decay)}, but that in {path} is already at step "
            f"{trainer.trunk_position}: give it more --steps"
        )
    return taken + ahead


def _price(differences: Mapping[str, object]) -> str:
    if all(name in _HARMLESS for name in differences):
        return "nothing is lost"
    return "the looks so far are forgotten, and a look under way is dropped"


def _label(name: str) -> str:
    return f"{name} ({_FLAGS[name]})" if name in _FLAGS else name


def _metric_text(identity: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    if identity is None:
        return "none"
    differing = [] if other is None else [name for name in identity if identity[name] != other.get(name)]
    details = ", ".join(f"{name} {str(identity[name])[:12]}" for name in differing if name != "name")
    return f"{identity['name']}{f' ({details})' if details else ''}"
