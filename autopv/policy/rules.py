"""The rules for single values in a policy: each check returns the value in its stored type, or says what is wrong."""

import math
import reprlib
from collections.abc import Mapping, Sequence

from autopv.errors import PolicyError, nearest
from autopv.policy.curves import CURVES
from autopv.policy.ops import get_op, op_names

MAX_FRAMES = 64
MAX_LAYERS = 16
MAX_FRAME_LOSS_WEIGHT = 10.0
RANDOMNESS = ("fresh", "shared")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 2  # each further level would multiply the length
_MAX_SHOWN = 200


def show(value: object) -> str:
    """The value as an error message quotes it: short, whatever it is."""
    try:
        shown = _REPR.repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return f"a {type(value).__name__} of enormous size"
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def show_key(key: str) -> str:
    """The key as a path in an error message writes it: plain where it is a plain name, otherwise quoted and short."""
    return key if len(key) <= 40 and key.isascii() and key.isidentifier() else show(key)


def whole(value: object, *, at: str, low: int, high: int) -> int:
    """The value as an int in [low, high]; a bool is none."""
    if type(value) is not int or not low <= value <= high:
        raise PolicyError(f"{at} must be a whole number in [{low}, {high}], got {show(value)}")
    return value


def number(value: object, *, at: str, low: float, high: float, above_low: bool = False) -> float:
    """The value as a float in [low, high], or in (low, high] where `above_low`; a bool is none."""
    wrong = isinstance(value, bool) or not isinstance(value, int | float)
    # Integers are compared before they are converted: a huge one has no float.
    if wrong or not (low < value <= high if above_low else low <= value <= high):  # type: ignore[operator]
        raise PolicyError(f"{at} must be a number in {'(' if above_low else '['}{low}, {high}], got {show(value)}")
    return float(value)  # type: ignore[arg-type]


def choice(value: object, *, at: str, known: Sequence[str]) -> str:
    """The value, if it is one of the known strings."""
    if not isinstance(value, str) or value not in known:
        hint = nearest(value[:60], known) if isinstance(value, str) else f" Known: {', '.join(known)}."
        raise PolicyError(f"{at} must be one of the known names, got {show(value)}.{hint}")
    return str(value)


def keys(mapping: object, *, at: str, required: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, object]:
    """The mapping, if its keys are all the required ones and none beyond the optional ones."""
    if not isinstance(mapping, Mapping):
        raise PolicyError(f"{at} must be an object with the keys {', '.join(required)}, got {show(mapping)}")
    known = (*required, *optional)
    for key in mapping:
        if key not in known:
            hint = nearest(key[:60], known) if isinstance(key, str) else ""
            raise PolicyError(f"{at} has an unknown key {show(key)}.{hint}")
    for key in required:
        if key not in mapping:
            raise PolicyError(f"{at} lacks the key {key!r}; it holds: {', '.join(mapping) or 'nothing'}")
    return mapping


def op_name(value: object, *, at: str) -> str:
    """The value, if an op of that name is registered."""
    return choice(value, at=at, known=op_names())


def magnitude(value: object, *, at: str, op: str) -> float:
    """The value as a magnitude of that op: 0, or within its bounds."""
    rule = get_op(op)
    at = f"{at}.{rule.magnitude_name}"
    if not isinstance(value, bool) and isinstance(value, int | float) and value == 0:
        return 0.0
    try:
        return number(value, at=at, low=rule.low, high=rule.high)
    except PolicyError as error:
        raise PolicyError(f"{error} ({op}: {rule.unit}; 0 switches the layer off)") from None


def active_frames(value: object, *, at: str, num_frames: int | None = None) -> tuple[int, int]:
    """The value as (first, last) with 1 <= first <= last <= num_frames - 1."""
    highest = (MAX_FRAMES if num_frames is None else num_frames) - 1
    rule = f"{at} must be two whole numbers [a, b] with 1 <= a <= b <= {highest}"
    if num_frames is not None:
        rule += f" (frame {num_frames} is the image)"
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise PolicyError(f"{rule}, got {show(value)}")
    first, last = value
    if type(first) is not int or type(last) is not int or not 1 <= first <= last <= highest:
        raise PolicyError(f"{rule}, got {show(value)}")
    return first, last


def curve(value: object, *, at: str) -> str:
    """The value, if it names a curve."""
    return choice(value, at=at, known=CURVES)


def finite_json(value: object, *, at: str, depth: int = 0) -> object:
    """A copy of the value in plain JSON types (dict, list, str, bool, int, finite float, None)."""
    max_depth = 20  # far above any honest record, far below Python's recursion limit
    if depth > max_depth:
        raise PolicyError(f"{at} must not be nested more than {max_depth} deep")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise PolicyError(f"{at} must have string keys only, got {show(key)}")
        return {key: finite_json(item, at=f"{at}.{show_key(key)}", depth=depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item, at=f"{at}[{i}]", depth=depth + 1) for i, item in enumerate(value)]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise PolicyError(f"{at} must hold plain JSON values, finite and at most 64 bits wide, got {show(value)}")
