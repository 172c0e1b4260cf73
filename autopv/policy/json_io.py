"""Policies as JSON: strict reading, atomic writing."""

import json
import os
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopv.errors import PolicyError
from autopv.policy import rules
from autopv.policy.ops import get_op

if TYPE_CHECKING:
    from autopv.policy.policy import Layer, Policy

FORMAT_VERSION = 1
MAX_BYTES = 1 << 17
"""A policy takes some kilobytes; a file of many times that is something else, and not worth the wait."""

REQUIRED_KEYS = ("format_version", "num_frames", "layers")
OPTIONAL_KEYS = ("markov_order", "randomness", "frame_loss_weight", "frame_loss_until", "provenance")
REQUIRED_LAYER_KEYS = ("op", "magnitude", "frames")
OPTIONAL_LAYER_KEYS = ("curve", "probability")


def policy_values(mapping: object, *, where: str) -> dict[str, Any]:
    """The constructor arguments that a JSON object states, its layers as dictionaries of theirs.

    Layers are checked here, so that errors can name their place; the rest is checked by Policy itself.
    """
    if isinstance(mapping, Mapping) and "format_version" in mapping:
        _check_version(mapping["format_version"], where=where)  # before unknown keys: a newer version may know them
    stated = rules.keys(mapping, at=where, required=REQUIRED_KEYS, optional=OPTIONAL_KEYS)
    layers = stated["layers"]
    if not isinstance(layers, list | tuple) or len(layers) > rules.MAX_LAYERS:
        raise PolicyError(
            f"{where}: layers must be a list of at most {rules.MAX_LAYERS} objects, got "
            f"{f'{len(layers)} of them' if isinstance(layers, list | tuple) else rules.show(layers)}"
        )
    values = {key: value for key, value in stated.items() if key not in ("format_version", "layers")}
    return {**values, "layers": [_layer_values(raw, at=f"{where}: layers[{i}]") for i, raw in enumerate(layers)]}


def policy_dict(policy: "Policy") -> dict[str, Any]:
    """The JSON object that states the policy, every key written out; provenance only where there is one."""
    stated: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "num_frames": policy.num_frames,
        "markov_order": policy.markov_order,
        "randomness": policy.randomness,
        "frame_loss_weight": policy.frame_loss_weight,
        "frame_loss_until": policy.frame_loss_until,
        "layers": [_layer_dict(layer) for layer in policy.layers],
    }
    if policy.provenance is not None:
        stated["provenance"] = rules.finite_json(policy.provenance, at="provenance")
    return stated


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises: PolicyError where there is no such file, or it is not strict JSON."""
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing there"
            raise PolicyError(f"{path}: a policy must be a JSON file, but this is {found}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise PolicyError(f"{path}: a policy must be at most {MAX_BYTES >> 10} KiB; this file is something else")
    try:
        # utf-8-sig: some editors begin a file with a byte-order mark.
        return json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=lambda pairs: _unique(pairs, where=str(path)),
            parse_constant=lambda name: _refuse_constant(name, where=str(path)),
        )
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path}: a policy must be UTF-8 text, but byte {error.start} is not") from None
    except json.JSONDecodeError as error:
        raise PolicyError(f"{path}: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError:  # an integer of thousands of digits, which Python refuses to convert
        raise PolicyError(f"{path}: holds a number of more digits than any policy has") from None
    except RecursionError:
        raise PolicyError(f"{path}: is nested deeper than any policy") from None


def write_json(mapping: Mapping[str, Any], path: Path, *, overwrite: bool) -> None:
    """Writes the object to the file at once: a reader, or a crash, sees the old file or the whole new one."""
    content = json.dumps(mapping, indent=2, allow_nan=False) + "\n"
    if len(content) > MAX_BYTES:
        raise PolicyError(f"{path}: a policy must be at most {MAX_BYTES >> 10} KiB; shorten its provenance")
    refusal = f"{path} exists and is not overwritten; choose another name, or ask for overwriting"
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        if not overwrite and path.exists():
            raise PolicyError(refusal)
        with temporary.open("x", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)  # unlike a rename, a link fails where another process made the file meanwhile
    except FileExistsError:
        raise PolicyError(refusal) from None
    except OSError as error:
        raise PolicyError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _check_version(version: object, *, where: str) -> None:
    if type(version) is not int or version < 1:
        raise PolicyError(f"{where}: format_version must be {FORMAT_VERSION}, got {rules.show(version)}")
    if version > FORMAT_VERSION:
        raise PolicyError(
            f"{where}: format_version {rules.show(version)} is newer than this autopv reads ({FORMAT_VERSION}); "
            "upgrade autopv"
        )


def _layer_values(raw: object, *, at: str) -> dict[str, Any]:
    """The constructor arguments of one layer."""
    stated = rules.keys(raw, at=at, required=REQUIRED_LAYER_KEYS, optional=OPTIONAL_LAYER_KEYS)
    op = rules.op_name(stated["op"], at=f"{at}.op")
    magnitude_name = get_op(op).magnitude_name
    magnitude = rules.keys(stated["magnitude"], at=f"{at}.magnitude", required=(magnitude_name,))
    values: dict[str, Any] = {
        "op": op,
        "magnitude": rules.magnitude(magnitude[magnitude_name], at=f"{at}.magnitude", op=op),
        "frames": rules.active_frames(stated["frames"], at=f"{at}.frames"),
    }
    if "curve" in stated:
        values["curve"] = rules.curve(stated["curve"], at=f"{at}.curve")
    if "probability" in stated:
        values["probability"] = rules.number(stated["probability"], at=f"{at}.probability", low=0.0, high=1.0)
    return values


def _layer_dict(layer: "Layer") -> dict[str, Any]:
    return {
        "op": layer.op,
        "magnitude": {layer.definition.magnitude_name: layer.magnitude},
        "curve": layer.curve,
        "frames": list(layer.frames),
        "probability": layer.probability,
    }


def _unique(pairs: Sequence[tuple[str, object]], *, where: str) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        times = Counter(key for key, _ in pairs)
        repeated = next(key for key in times if times[key] > 1)
        raise PolicyError(f"{where}: the key {rules.show(repeated)} is stated more than once in one object")
    return result


def _refuse_constant(name: str, *, where: str) -> object:
    raise PolicyError(f"{where}: every number must be finite, got {name}")
