"""Checkpoints: a folder with one file that holds a whole training, or only a model to sample from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv import __version__
from autopv.errors import AutopvError, CheckpointError
from autopv.models.base import VideoGenerator, build_model, check_installed, model_package
from autopv.policy.policy import Policy
from autopv.training.checkpoint_file import FILE_NAME, read_file, write_file
from autopv.training.course import Course
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Look, Trainer

__all__ = [
    "BEST_FOLDER",
    "FILE_NAME",
    "CheckpointInfo",
    "check_family",
    "load_generator",
    "model_file",
    "read_info",
    "resume_checkpoint",
    "save_checkpoint",
    "save_model",
]

# Within the folder of a full training: the model of its best look.
BEST_FOLDER = "best"
FORMAT = "autopv-training"
# 2: files that hold only a model, and the course of a full training. 3: classes, of which there were none before.
FORMAT_VERSION = 3
_READABLE = (2, 3)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about itself, all of it checked when it is resumed.

    resumable: whether it holds the whole training, or only what sampling needs. precision, compiled: how the steps were
    carried out, for the same bits. course: of a full training. model_package: the installed package that offered the
    family, with its version; None for autopv's own. class_names: of the model's classes, in the order of its labels;
    class_counts: the training images of each, and at the end those without a class. Empty without classes.
    """

    model_name: str
    preset: str
    size_px: int
    channels: int
    policy: Policy
    plan: TrainingPlan
    seed: int
    data_digest: str
    position: int
    total_steps: int
    steps_done: int
    flops_spent: float
    look_end_step: int | None
    look_trunk_step: int | None
    device_type: str
    autopv_version: str
    torch_version: str
    resumable: bool
    precision: str
    compiled: bool
    course: Course | None
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    model_package: str | None = None


def save_checkpoint(trainer: Trainer, folder: Path | str, *, course: Course | None = None) -> Path:
    """The file that now holds the whole training; what stood there is replaced only once the new one is whole.

    Raises:
        StorageError: it could not be written; what stood there still does.
    """
    tensors = {f"current/{name}": t for name, t in trainer.learner.tensors().items()}
    if trainer.look is not None:
        tensors |= {f"trunk/{name}": t for name, t in trainer.look.trunk_tensors.items()}
    return write_file(Path(folder), tensors, header=_to_json(_describe(trainer, course=course, resumable=True)))


def save_model(trainer: Trainer, folder: Path | str, *, course: Course | None = None) -> Path:
    """The file that now holds the averaged weights, which sampling needs, and nothing that training needs.

    Raises:
        StorageError: it could not be written; what stood there still does.
    """
    tensors = {f"current/ema/{name}": t for name, t in trainer.learner.averaged_model().state_dict().items()}
    return write_file(Path(folder), tensors, header=_to_json(_describe(trainer, course=course, resumable=False)))


def resume_checkpoint(trainer: Trainer, folder: Path | str, *, force: bool = False) -> CheckpointInfo:
    """What the checkpoint says, after `trainer` has taken over its state.

    With `force`, another policy (of equally many frames), plan, seed or data is accepted: the trunk goes on under the
    new settings (a longer plan extends a finished training), and a look under way is dropped.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, one from another format, one that holds only a model,
            or (without `force`, except for the model itself) one of another training.
    """
    path = Path(folder) / FILE_NAME
    info, tensors = _read(path, part=("current/", "trunk/"))
    if not info.resumable:
        raise CheckpointError(
            f"{path} holds a model to sample from, but no training to go on with: resume the training's own folder"
        )
    check_same_model(info, trainer, path=path)
    differences = training_differences(info, trainer)
    if not force:
        for name, (stored, given) in differences.items():
            _check_same(path, name, stored=stored, given=given, remedy="resume with the same one, or force it")
    current, trunk = _subset(tensors, "current/"), _subset(tensors, "trunk/")
    in_look = info.look_end_step is not None and info.look_trunk_step is not None
    try:
        if in_look and not differences:
            trainer.learner.restore(current)
            device = trainer.device
            trainer.look = Look(
                info.look_end_step or 0, info.look_trunk_step or 0, {name: t.to(device) for name, t in trunk.items()}
            )
        else:
            trainer.learner.restore(trunk if in_look else current)
            trainer.look = None
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold the tensors of its own model ({error}): it is damaged") from error
    trainer.steps_done = info.steps_done
    return info


def check_same_model(info: CheckpointInfo, trainer: Trainer, *, path: Path) -> None:
    """Nothing, if the trainer's model can take over the weights. Raises: CheckpointError otherwise."""
    for name in ("model_name", "preset", "size_px", "channels"):
        _check_same(path, name, stored=getattr(info, name), given=getattr(trainer, name), remedy="use that model")
    classes = [", ".join(names) or "none" for names in (info.class_names, trainer.class_names)]
    remedy = "train by the same classes, or without --classes where there were none"
    _check_same(path, "classes", stored=classes[0], given=classes[1], remedy=remedy)
    frames = (info.policy.num_frames, trainer.policy.num_frames)
    _check_same(path, "policy.num_frames", stored=frames[0], given=frames[1], remedy="use that policy")


def training_differences(info: CheckpointInfo, trainer: Trainer) -> dict[str, tuple[object, object]]:
    """By name, the (stored, given) settings in which the trainer is another training than the checkpoint's."""
    found: dict[str, tuple[object, object]] = {}
    if info.policy != trainer.policy:
        found["policy"] = (info.policy.describe(), trainer.policy.describe())
    for field in fields(TrainingPlan):
        stored, given = getattr(info.plan, field.name), getattr(trainer.plan, field.name)
        if stored != given:
            found[f"plan.{field.name}"] = (stored, given)
    for name in ("seed", "data_digest"):
        if getattr(info, name) != getattr(trainer, name):
            found[name] = (getattr(info, name), getattr(trainer, name))
    return found


def model_file(path: Path | str) -> Path:
    """The file to sample from: `path` itself if it is one, else its folder's best look's, else the folder's own."""
    path = Path(path)
    if path.is_file():
        return path
    best = path / BEST_FOLDER / FILE_NAME
    return best if best.is_file() else path / FILE_NAME


def load_generator(path: Path | str, *, device: torch.device | str = "cpu") -> tuple[VideoGenerator, CheckpointInfo]:
    """The model of `model_file(path)` with its averaged weights, ready to sample, and what its checkpoint says.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, or one of another format.
        ModelError: its family is not installed, cannot be loaded, or is not built so any more.
    """
    file = model_file(path)
    info, tensors = _read(file, part=("current/ema/", "current/model/"))
    check_family(info, path=file)
    model = build_model(
        info.model_name,
        preset=info.preset,
        size_px=info.size_px,
        channels=info.channels,
        num_frames=info.policy.num_frames,
        num_classes=len(info.class_names),
        seed=0,
    )
    if info.class_names:
        model.class_counts = torch.tensor(info.class_counts)
    # Buffers, if a family has any, are not averaged: the live ones stand beneath.
    weights = {**_subset(tensors, "current/model/"), **_subset(tensors, "current/ema/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit its own model: {error}") from error
    return model.to(device).eval().requires_grad_(False), info


def check_family(info: CheckpointInfo, *, path: Path) -> None:
    """Nothing, if the family of the checkpoint's model is installed. Raises: ModelError that says what is not."""
    check_installed(info.model_name, package=info.model_package, where=f"the checkpoint {path}")


def read_info(path: Path | str) -> CheckpointInfo:
    """What the checkpoint, a file or the one in a folder, says about itself, without reading its tensors.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, or one of another format.
    """
    path = Path(path)
    return _read(path if path.is_file() else path / FILE_NAME, part=())[0]


def _describe(trainer: Trainer, *, course: Course | None, resumable: bool) -> CheckpointInfo:
    look = trainer.look
    return CheckpointInfo(
        model_name=trainer.model_name,
        preset=trainer.preset,
        size_px=trainer.size_px,
        channels=trainer.channels,
        policy=trainer.policy,
        plan=trainer.plan,
        seed=trainer.seed,
        data_digest=trainer.data_digest,
        position=trainer.position,
        total_steps=trainer.total_steps,
        steps_done=trainer.steps_done,
        flops_spent=trainer.flops_spent,
        look_end_step=None if look is None else look.end_step,
        look_trunk_step=None if look is None else look.trunk_step,
        device_type=trainer.device.type,
        autopv_version=__version__,
        torch_version=torch.__version__,
        resumable=resumable,
        precision=trainer.learner.execution.precision,
        compiled=trainer.learner.execution.compiled,
        course=course,
        model_package=model_package(trainer.model_name),
        class_names=trainer.class_names,
        class_counts=trainer.class_counts,
    )


def _read(path: Path, *, part: tuple[str, ...]) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    return read_file(path, parse=lambda header: _from_json(header, path=path), part=part)


def _to_json(info: CheckpointInfo) -> str:
    values: dict[str, Any] = {name: getattr(info, name) for name in CheckpointInfo.__dataclass_fields__}
    values |= {"policy": info.policy.to_dict(), "plan": asdict(info.plan)}
    values |= {"course": None if info.course is None else info.course.to_dict()}
    return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values})


def _from_json(header: str | None, *, path: Path) -> CheckpointInfo:
    try:
        values = json.loads(header or "null")
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} has a header that is not JSON ({error}): it is damaged") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of autopv (its header names no {FORMAT!r} format)")
    version = values.pop("format_version", None)
    if version not in _READABLE:
        raise CheckpointError(
            f"this autopv ({__version__}) reads checkpoint formats {' and '.join(map(str, _READABLE))}, but {path} has "
            f"{version!r}, written by autopv {values.get('autopv_version')}: use that version"
        )
    if version == _READABLE[0]:
        values |= {"class_names": (), "class_counts": ()}
    try:
        values["class_names"], values["class_counts"] = tuple(values["class_names"]), tuple(values["class_counts"])
        values["policy"] = Policy.from_dict(values["policy"], where=f"{path}: policy")
        values["plan"] = TrainingPlan.from_dict(values["plan"])
        values["course"] = None if values["course"] is None else Course.from_dict(values["course"])
        return CheckpointInfo(**values)
    except (KeyError, TypeError, AutopvError) as error:
        raise CheckpointError(f"{path} has a header that cannot be understood: {error}") from error


def _check_same(path: Path, name: str, *, stored: object, given: object, remedy: str) -> None:
    if stored != given:
        raise CheckpointError(f"{path} belongs to a training with {name}={stored}, but got {name}={given}: {remedy}")


def _subset(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
