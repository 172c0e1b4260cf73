"""Policies as one line of text, for logs and messages: nothing but the provenance is lost, and the line reads back.

    T=4 order=1 fresh weight=0.1 until=0.5: gaussian_blur sigma=0.06 linear 1-3 > erase area=0.4 cosine 1-2 p=0.7

`until` and `p` are written where they are not 1. Checking values is left to the reader of JSON objects: the line is
only another way to write one.
"""

import re
from typing import TYPE_CHECKING, Any

from autopv.errors import PolicyError
from autopv.policy import rules
from autopv.policy.json_io import FORMAT_VERSION

if TYPE_CHECKING:
    from autopv.policy.policy import Layer, Policy

IMAGE_ONLY = "image-only"
NO_LAYERS = "no layers"
_BETWEEN_LAYERS = " > "
_HEAD_FORM = "T=.. order=.. fresh|shared weight=.. [until=..]: LAYER > LAYER .."
_LAYER_FORM = "OP NAME=MAGNITUDE CURVE FIRST-LAST [p=..]"
_WHOLE = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")


def policy_text(policy: "Policy") -> str:
    """The policy in one line, all but its provenance."""
    if policy == type(policy)():
        return IMAGE_ONLY
    head = f"T={policy.num_frames} order={policy.markov_order} {policy.randomness}"
    head += f" weight={number_text(policy.frame_loss_weight)}"
    if policy.frame_loss_until < 1:
        head += f" until={number_text(policy.frame_loss_until)}"
    return f"{head}: {_BETWEEN_LAYERS.join(layer_text(layer) for layer in policy.layers) or NO_LAYERS}"


def layer_text(layer: "Layer") -> str:
    """The layer as it stands in its policy's line."""
    first, last = layer.frames
    magnitude = f"{layer.definition.magnitude_name}={number_text(layer.magnitude)}"
    text = f"{layer.op} {magnitude} {layer.curve} {first}-{last}"
    return text if layer.probability == 1 else f"{text} p={number_text(layer.probability)}"


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float.

    >>> number_text(3.0), number_text(0.1 + 0.2)
    ('3', '0.30000000000000004')
    """
    short, exact = f"{value:g}", repr(value)
    return short if float(short) == value and len(short) <= len(exact) else exact


def policy_mapping(text: str, *, where: str) -> dict[str, Any]:
    """The JSON object that says what the line says. Raises: PolicyError quoting what cannot be read.

    Only the form is checked here; a value of the wrong kind stays text, for the check of values to refuse.
    """
    if not isinstance(text, str):
        raise PolicyError(f"{where} must be a line of text, got {rules.show(text)}")
    if text.strip() == IMAGE_ONLY:
        return {"format_version": FORMAT_VERSION, "num_frames": 1, "layers": []}
    head, colon, body = text.partition(":")
    words = head.split()
    if not colon or len(words) not in (4, 5):
        raise PolicyError(f"{where} must be {IMAGE_ONLY!r} or read {_HEAD_FORM!r}, got {rules.show(text)}")
    mapping: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "num_frames": _whole(_after("T=", words[0], where=where)),
        "markov_order": _whole(_after("order=", words[1], where=where)),
        "randomness": words[2],
        "frame_loss_weight": _number(_after("weight=", words[3], where=where)),
    }
    if len(words) == 5:
        mapping["frame_loss_until"] = _number(_after("until=", words[4], where=where))
    parts = [] if body.strip() == NO_LAYERS else body.split(_BETWEEN_LAYERS.strip())
    return {**mapping, "layers": [_layer(part, at=f"{where}: layers[{i}]") for i, part in enumerate(parts)]}


def _layer(text: str, *, at: str) -> dict[str, Any]:
    words = text.split()
    if len(words) not in (4, 5):
        raise PolicyError(f"{at} must read {_LAYER_FORM!r}, got {rules.show(text.strip())}")
    op, magnitude, curve, frames = words[:4]
    name, equals, value = magnitude.partition("=")
    bounds = _RANGE.fullmatch(frames)
    if not equals or not bounds:
        odd = frames if equals else magnitude
        raise PolicyError(f"{at} must read {_LAYER_FORM!r}, but holds {rules.show(odd)}")
    layer: dict[str, Any] = {
        "op": op,
        "magnitude": {name: _number(value)},
        "curve": curve,
        "frames": [int(bound) for bound in bounds.groups()],
    }
    return layer if len(words) == 4 else {**layer, "probability": _number(_after("p=", words[4], where=at))}


def _after(prefix: str, word: str, *, where: str) -> str:
    if not word.startswith(prefix):
        raise PolicyError(f"{where} must have {prefix}.. where it has {rules.show(word)}")
    return word.removeprefix(prefix)


def _whole(text: str) -> int | str:
    return int(text) if _WHOLE.fullmatch(text) else text


def _number(text: str) -> float | str:
    return float(text) if _NUMBER.fullmatch(text) else text
