"""Checkpoints: one safetensors file per folder whose header holds the JSON, so that a save is one atomic rename."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autopv import __version__
from autopv.errors import AutopvError, CheckpointError
from autopv.models.base import VideoGenerator, build_model
from autopv.policy.policy import Policy
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Look, Trainer

FILE_NAME = "checkpoint.safetensors"
FORMAT = "autopv-training"
FORMAT_VERSION = 1
# The only key of the file's header: safetensors headers map strings to strings.
HEADER_KEY = "autopv"


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says about itself, all of it checked when it is resumed."""

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


def save_checkpoint(trainer: Trainer, folder: Path | str) -> Path:
    """The file that now holds the whole training; what stood there is replaced only once the new one is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"current/{name}": t for name, t in trainer.learner.tensors().items()}
    look = trainer.look
    if look is not None:
        tensors |= {f"trunk/{name}": t for name, t in look.trunk_tensors.items()}
    info = CheckpointInfo(
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
    )
    path = folder / FILE_NAME
    # The process's number: two writers of one folder must not write into each other's half-made file.
    part = folder / f".{FILE_NAME}.{os.getpid()}.part"
    try:
        save_file({n: t.cpu().contiguous() for n, t in tensors.items()}, part, metadata={HEADER_KEY: _to_json(info)})
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync(folder)
    return path


def resume_checkpoint(trainer: Trainer, folder: Path | str, *, force: bool = False) -> CheckpointInfo:
    """What the checkpoint says, after `trainer` has taken over its state.

    With `force`, another policy (of equally many frames), plan, seed or data is accepted: the trunk goes on under the
    new settings (a longer plan extends a finished training), and a look under way is dropped.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, one from a newer autopv, or (without `force`, except
            for the model itself) one of another training.
    """
    info, tensors = _read(folder, part=("current/", "trunk/"))
    path = Path(folder) / FILE_NAME
    for name in ("model_name", "preset", "size_px", "channels"):
        _check_same(path, name, stored=getattr(info, name), given=getattr(trainer, name), remedy="use that model")
    frames = (info.policy.num_frames, trainer.policy.num_frames)
    _check_same(path, "policy.num_frames", stored=frames[0], given=frames[1], remedy="use that policy")
    same = True
    for name in ("policy", "plan", "seed", "data_digest"):
        stored, given = getattr(info, name), getattr(trainer, name)
        same = same and stored == given
        if not force:
            _check_same(path, name, stored=stored, given=given, remedy="resume with the same one, or force it")
    current, trunk = _subset(tensors, "current/"), _subset(tensors, "trunk/")
    in_look = info.look_end_step is not None and info.look_trunk_step is not None
    try:
        if in_look and same:
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


def load_generator(folder: Path | str, *, device: torch.device | str = "cpu") -> tuple[VideoGenerator, CheckpointInfo]:
    """The model with its averaged weights, ready to sample, and what the checkpoint says about it.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, or one from a newer autopv.
    """
    info, tensors = _read(folder, part=("current/ema/", "current/model/"))
    model = build_model(
        info.model_name,
        preset=info.preset,
        size_px=info.size_px,
        channels=info.channels,
        num_frames=info.policy.num_frames,
        seed=0,
    )
    # Buffers, if a family has any, are not averaged: the live ones stand beneath.
    weights = {**_subset(tensors, "current/model/"), **_subset(tensors, "current/ema/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{Path(folder) / FILE_NAME} does not fit its own model: {error}") from error
    return model.to(device).eval().requires_grad_(False), info


def read_info(folder: Path | str) -> CheckpointInfo:
    """What the checkpoint in `folder` says about itself, without reading its tensors.

    Raises:
        CheckpointError: no checkpoint, a damaged or foreign one, or one from a newer autopv.
    """
    return _read(folder, part=())[0]


def _read(folder: Path | str, *, part: tuple[str, ...]) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"a checkpoint folder holds {FILE_NAME}, but {path} does not exist: is the path right?")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            # Checked before any tensor is read: a newer format may mean something else by the same names.
            info = _from_json(header, path=path)
            names = [name for name in file.keys() if name.startswith(part)] if part else []  # noqa: SIM118
            return info, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({error}): it is truncated or damaged; use another, or train anew"
        ) from error


def _to_json(info: CheckpointInfo) -> str:
    values = {name: getattr(info, name) for name in CheckpointInfo.__dataclass_fields__}
    values |= {"policy": info.policy.to_dict(), "plan": asdict(info.plan)}
    return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **values})


def _from_json(header: str | None, *, path: Path) -> CheckpointInfo:
    try:
        values = json.loads(header or "null")
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} has a header that is not JSON ({error}): it is damaged") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of autopv (its header names no {FORMAT!r} format)")
    version = values.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"this autopv ({__version__}) reads checkpoint format {FORMAT_VERSION}, but {path} has {version!r}, "
            f"written by autopv {values.get('autopv_version')}: use that version"
        )
    try:
        values["policy"] = Policy.from_dict(values["policy"], where=f"{path}: policy")
        values["plan"] = TrainingPlan.from_dict(values["plan"])
        return CheckpointInfo(**values)
    except (KeyError, TypeError, AutopvError) as error:
        raise CheckpointError(f"{path} has a header that cannot be understood: {error}") from error


def _check_same(path: Path, name: str, *, stored: object, given: object, remedy: str) -> None:
    if stored != given:
        raise CheckpointError(f"{path} belongs to a training with {name}={stored}, but got {name}={given}: {remedy}")


def _subset(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _sync(path: Path) -> None:
    """Nothing; what was written under this name (a file, or a folder's list of names) has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
