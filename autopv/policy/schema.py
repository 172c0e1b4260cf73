"""The JSON schema of a policy file, for editors and other programs, made from the rules and the registry of ops."""

import dataclasses
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

from autopv.policy import json_io, rules
from autopv.policy.curves import CURVES
from autopv.policy.ops import Op, get_op, op_names
from autopv.policy.policy import Layer, Policy

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_UNSAID = (
    "What a policy must hold beyond this schema, and `autopv policy validate` checks: markov_order <= num_frames - 1 "
    '(1 for one frame); randomness "shared" only with markov_order = max(1, num_frames - 1); frames [a, b] with '
    "a <= b <= num_frames - 1; whole numbers without a decimal point (3, not 3.0); in provenance, integers of at most "
    "64 bits and at most 20 levels; no key stated twice; " + f"UTF-8 text of at most {json_io.MAX_BYTES >> 10} KiB."
)


def schema_text() -> str:
    """The schema as it is committed beside this module (policy.schema.json), a newline at its end."""
    return json.dumps(policy_schema(), indent=2, ensure_ascii=False) + "\n"


def policy_schema() -> Schema:
    """The JSON schema (draft 2020-12) of what `Policy.from_dict` reads, as far as a schema can say it."""
    ops = [get_op(name) for name in op_names()]
    one_frame = {"properties": {"num_frames": {"const": 1}}, "required": ["num_frames"]}
    return {
        "$schema": DIALECT,
        "title": "autopv policy",
        "description": "Which corruptions make an image into a pseudo video.",
        "$comment": _UNSAID,
        **_object(_policy_properties(), required=json_io.REQUIRED_KEYS, defaults_of=Policy),
        "if": one_frame,
        "then": {"properties": {"markov_order": {"const": 1}, "layers": {"maxItems": 0}}},
        "$defs": {
            "layer": _layer(ops),
            **{_magnitude_def(op): _magnitude(op) for op in ops},
            "json": _json(),
        },
    }


def _policy_properties() -> dict[str, Schema]:
    return {
        "format_version": {"const": json_io.FORMAT_VERSION, "description": "Version of this file format."},
        "num_frames": {
            **_whole(1, rules.MAX_FRAMES),
            "description": "Length of the video; its last frame is the image. 1: image-only training.",
        },
        "markov_order": {
            **_whole(1, rules.MAX_FRAMES - 1),
            "description": "Frame t is made from frame t + markov_order; past the end, from the image. 1: a chain; "
            "num_frames - 1: every frame straight from the image.",
        },
        "randomness": {
            "enum": list(rules.RANDOMNESS),
            "description": '"fresh" draws anew for every frame; "shared" makes one draw that grows over the video, '
            "and needs markov_order = num_frames - 1.",
        },
        "frame_loss_weight": {
            **_positive(rules.MAX_FRAME_LOSS_WEIGHT),
            "description": "Weight of each pseudo frame's loss against the last frame's 1.",
        },
        "frame_loss_until": {
            **_positive(1),
            "description": "Share of the training over which that weight falls linearly to 0; at 1 it does not fall.",
        },
        "layers": {
            "type": "array",
            "maxItems": rules.MAX_LAYERS,
            "items": {"$ref": "#/$defs/layer"},
            "description": "The corruptions, applied to each frame in this order.",
        },
        "provenance": {
            "type": ["object", "null"],
            "additionalProperties": {"$ref": "#/$defs/json"},
            "description": "Where the policy came from, in plain JSON values; no part of its identity.",
        },
    }


def _layer(ops: list[Op]) -> Schema:
    """A layer; what its magnitude may be follows from its op."""
    properties: dict[str, Schema] = {
        "op": {
            "description": "The corruption.",
            "oneOf": [{"const": op.name, "title": op.group, "description": _first_paragraph(op)} for op in ops],
        },
        "magnitude": {
            "type": "object",
            "description": "The corruption's strength at the most corrupted frame, under the one name that its op has "
            "for it; 0 switches the layer off.",
        },
        "curve": {"enum": list(CURVES), "description": "How the magnitude falls to zero over the frames."},
        "frames": {
            "type": "array",
            "items": _whole(1, rules.MAX_FRAMES - 1),
            "minItems": 2,
            "maxItems": 2,
            "description": "[a, b]: full magnitude up to frame a, then falling along the curve to zero at frame "
            "b + 1; 1 <= a <= b <= num_frames - 1.",
        },
        "probability": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Chance that an image's video has this layer at all.",
        },
    }
    return {
        "title": "layer",
        **_object(properties, required=json_io.REQUIRED_LAYER_KEYS, defaults_of=Layer),
        "allOf": [
            {
                "if": {"properties": {"op": {"const": op.name}}, "required": ["op"]},
                "then": {"properties": {"magnitude": {"$ref": f"#/$defs/{_magnitude_def(op)}"}}},
            }
            for op in ops
        ],
    }


def _magnitude_def(op: Op) -> str:
    return f"{op.name}.magnitude"


def _magnitude(op: Op) -> Schema:
    bounds = f"{_capitalised(op.unit)}: 0, or from {op.low:g} to {op.high:g}."
    value = {"description": bounds, "anyOf": [{"const": 0}, {"type": "number", "minimum": op.low, "maximum": op.high}]}
    return {"title": op.name, **_object({op.magnitude_name: value}, required=(op.magnitude_name,))}


def _json() -> Schema:
    """Any plain JSON value; a number that overflows a float is none."""
    again = {"$ref": "#/$defs/json"}
    return {
        "minimum": -sys.float_info.max,
        "maximum": sys.float_info.max,
        "items": again,
        "additionalProperties": again,
    }


def _object(
    properties: Mapping[str, Schema], *, required: tuple[str, ...], defaults_of: type[Policy | Layer] | None = None
) -> Schema:
    """An object with no keys but these; those not required show the default that the class has for them."""
    defaults = {field.name: field.default for field in dataclasses.fields(defaults_of)} if defaults_of else {}
    stated = {
        key: schema if key in required else {**schema, "default": defaults[key]} for key, schema in properties.items()
    }
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": stated}


def _whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _positive(high: float) -> Schema:
    return {"type": "number", "exclusiveMinimum": 0, "maximum": high}


def _first_paragraph(op: Op) -> str:
    """What the op does, from its docstring."""
    paragraph = inspect.cleandoc(type(op).__doc__ or "").partition("\n\n")[0]
    return " ".join(paragraph.split())


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
