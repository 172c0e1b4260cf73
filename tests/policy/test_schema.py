"""The JSON schema says what the reader of policies says, as far as a schema can."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from policy_strategies import policies
from test_policy_json import BAD_VALUES, VALID

from autopv.errors import PolicyError
from autopv.policy import Policy, json_io, schema
from autopv.policy.ops import get_op, op_names
from autopv.policy.schema import policy_schema, schema_text

VALIDATOR = Draft202012Validator(policy_schema())

# What a schema cannot say, or only at the price of a table of all numbers of frames: the $comment lists it.
UNSAID = {
    "order past the end",
    "shared chain",
    "frames reach the image",
    "frames reversed",
    "frames float",
    "float for int",
}


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(policy_schema())


def test_the_committed_schema_is_the_one_made_from_the_code() -> None:
    committed = Path(schema.__file__).with_name("policy.schema.json").read_text(encoding="utf-8")
    command = "uv run autopv policy schema > autopv/policy/policy.schema.json"
    assert committed == schema_text(), f"autopv/policy/policy.schema.json is out of date; make it anew: {command}"
    assert committed.endswith("}\n")


@settings(deadline=None, max_examples=150)
@given(policies())
def test_every_policy_satisfies_it(policy: Policy) -> None:
    VALIDATOR.validate(json.loads(json.dumps(policy.to_dict())))


def test_keys_may_be_left_out_and_provenance_null() -> None:
    VALIDATOR.validate({"format_version": 1, "num_frames": 1, "layers": []})
    VALIDATOR.validate({"format_version": 1, "num_frames": 1, "layers": [], "provenance": None})


@pytest.mark.parametrize(
    ("name", "change"),
    [pytest.param(name, c, id=name) for name, c, _ in BAD_VALUES if "NaN" not in name],  # which JSON has not
)
def test_what_the_reader_refuses_the_schema_refuses(name: str, change: Callable[[dict[str, Any]], object]) -> None:
    mapping = copy.deepcopy(VALID)
    change(mapping)
    assert VALIDATOR.is_valid(mapping) == (name in UNSAID)


WRONG: list[object] = [None, True, False, "1", "", [], {}, [1], {"sigma": 0.1}, -1, 65, 0.5, 1.5, 10.5, 1e308, 10**400]


def places(value: object) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value, itself left out."""
    entries: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        entries = list(value.items())
    elif isinstance(value, list):
        entries = list(enumerate(value))
    return [path for key, item in entries for path in ((key,), *((key, *rest) for rest in places(item)))]


def with_value(mapping: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    changed = copy.deepcopy(mapping)
    at: Any = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize("path", places({**VALID, "provenance": {"n": 1}}), ids=str)
def test_any_value_at_any_place_is_judged_alike(path: tuple[Any, ...]) -> None:
    """Relations between values left aside, the schema and the reader agree on what may stand in every place."""
    base = with_value(VALID, ("provenance",), {"n": 1})
    for value in WRONG:
        mapping = with_value(base, path, value)
        try:
            Policy.from_dict(mapping)
            read, why = True, ""
        except PolicyError as error:
            read, why = False, str(error)
        relation = "64 bits" in why or ("frames must be two" in why and path == ("num_frames",))
        if read or not relation:
            assert VALIDATOR.is_valid(mapping) == read, f"{value!r}: {why}"


@pytest.mark.parametrize("name", op_names())
def test_every_op_has_its_own_magnitude_within_its_own_bounds(name: str) -> None:
    op = get_op(name)

    def layer(magnitude: object) -> dict[str, Any]:
        stated = {"op": name, "magnitude": magnitude, "frames": [1, 2]}
        return {"format_version": 1, "num_frames": 3, "layers": [stated]}

    for value in (0, 0.0, op.low, op.high, (op.low + op.high) / 2):
        VALIDATOR.validate(layer({op.magnitude_name: value}))
    for value in (op.low * 0.999, op.high * 1.001, -op.low, False, "0", None):
        assert not VALIDATOR.is_valid(layer({op.magnitude_name: value}))
    for magnitude in ({}, {"another": op.low}, {op.magnitude_name: op.low, "another": 0}, op.low, [op.low]):
        assert not VALIDATOR.is_valid(layer(magnitude))


def test_a_wrong_magnitude_is_told_at_its_place() -> None:
    """Ops are told apart by a condition, not by trying all of them: so an editor marks the one wrong value."""
    (error,) = VALIDATOR.iter_errors(with_value(VALID, ("layers", 1, "magnitude"), {"aera": 0.4, "area": 0.4}))
    assert list(error.absolute_path) == ["layers", 1, "magnitude"]
    assert "'aera'" in error.message


def test_an_editor_shows_help_on_every_key_and_op() -> None:
    definitions = policy_schema()["$defs"]
    keys = {**policy_schema()["properties"], **definitions["layer"]["properties"]}
    assert set(keys) == {
        *(json_io.REQUIRED_KEYS + json_io.OPTIONAL_KEYS),
        *(json_io.REQUIRED_LAYER_KEYS + json_io.OPTIONAL_LAYER_KEYS),
    }
    assert all(key["description"].endswith(".") for key in keys.values())
    for option in definitions["layer"]["properties"]["op"]["oneOf"]:
        assert len(option["description"]) > 20, option
        op = get_op(option["const"])
        magnitude = definitions[f"{op.name}.magnitude"]["properties"][op.magnitude_name]
        assert op.unit[1:] in magnitude["description"]


def test_the_defaults_it_shows_are_the_readers() -> None:
    properties = policy_schema()["properties"]
    policy = Policy.from_dict({"format_version": 1, "num_frames": 1, "layers": []})
    for key in json_io.OPTIONAL_KEYS:
        assert properties[key]["default"] == getattr(policy, key)
