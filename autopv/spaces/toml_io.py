"""Search spaces in TOML: finding them by name, and reading them strictly."""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

import autopv
from autopv.errors import PolicyError, SpaceError, nearest
from autopv.policy import rules
from autopv.policy.curves import CURVES
from autopv.policy.ops import get_op, op_names
from autopv.spaces.ranges import Choice, FloatRange, IntRange

FORMAT_VERSION = 1
MAX_BYTES = 1 << 20
MARKOV_ORDERS = ("chain", "star", "any")
ACTIVE_FRAMES = ("all", "early", "late")


def shipped_spaces() -> dict[str, Traversable]:
    """The shipped spaces by name: from the wheel, or in a checkout from the repository's search_spaces/."""
    packaged = resources.files("autopv") / "search_spaces"
    checkout = Path(autopv.__file__).parent.parent / "search_spaces"
    folder: Traversable = packaged if packaged.is_dir() else checkout
    if not folder.is_dir():
        return {}
    return {file.name[: -len(".toml")]: file for file in folder.iterdir() if file.name.endswith(".toml")}


def find_space(name_or_path: str | Path) -> tuple[str, Traversable, str]:
    """A space's name, its file, and how messages call that file. Raises: SpaceError where there is none."""
    text = str(name_or_path)
    path = Path(text)
    looks_like_path = isinstance(name_or_path, Path) or path.suffix == ".toml" or len(path.parts) > 1
    if not looks_like_path:
        shipped = shipped_spaces()
        if text not in shipped:
            raise SpaceError(
                f"there is no shipped search space {text[:60]!r}.{nearest(text[:60], shipped)} "
                "To use your own, give the path of a .toml file."
            )
        return text, shipped[text], f"search space {text}"
    try:
        found = path.is_file()
    except OSError as error:
        raise SpaceError(f"{text[:200]}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise SpaceError(f"{text}: a search space must be a TOML file, but there is no file of that name")
    return path.stem, path, text


def read_toml(file: Traversable, *, where: str) -> dict[str, Any]:
    """The file's content. Raises: SpaceError where it is not TOML."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise SpaceError(f"{where}: a search space must be at most {MAX_BYTES >> 10} KiB")
        return tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise SpaceError(f"{where}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise SpaceError(f"{where}: a search space must be UTF-8 text, but byte {error.start} is not") from None
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"{where}: not TOML: {error}") from None
    except ValueError:  # an integer of thousands of digits, which Python refuses to convert
        raise SpaceError(f"{where}: holds a number of more digits than any space has") from None
    except RecursionError:
        raise SpaceError(f"{where}: is nested deeper than any search space") from None


def space_values(content: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The constructor arguments of a Space (but its name). Raises: SpaceError naming file and key path."""
    version = content.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        _fail(f"{where}: format_version {version} is newer than this autopv reads ({FORMAT_VERSION}); upgrade autopv")
    required = (
        *("format_version", "num_frames", "markov_order", "randomness", "frame_loss_weight", "frame_loss_until"),
        *("num_layers", "curve", "ops"),
    )
    _table(content, at=where, required=required, optional=("probability", "active_frames"))
    if version != FORMAT_VERSION or type(version) is not int:
        _fail(f"{where}: format_version must be {FORMAT_VERSION}, got {rules.show(version)}")
    values: dict[str, Any] = {
        "num_frames": _int_range(content["num_frames"], at=f"{where}: num_frames", low=2, high=rules.MAX_FRAMES),
        "markov_order": _names(content["markov_order"], at=f"{where}: markov_order", known=MARKOV_ORDERS),
        "randomness": _names(content["randomness"], at=f"{where}: randomness", known=rules.RANDOMNESS),
        "frame_loss_weight": _numbers(
            content["frame_loss_weight"],
            at=f"{where}: frame_loss_weight",
            low=1e-6,
            high=rules.MAX_FRAME_LOSS_WEIGHT,
        ),
        "frame_loss_until": _numbers(content["frame_loss_until"], at=f"{where}: frame_loss_until", low=1e-3, high=1.0),
        "num_layers": _int_range(content["num_layers"], at=f"{where}: num_layers", low=1, high=rules.MAX_LAYERS),
        "curve": _names(content["curve"], at=f"{where}: curve", known=CURVES),
        "magnitudes": _magnitudes(content["ops"], at=f"{where}: ops"),
        "probability": Choice((1.0,)),
        "active_frames": Choice(("all",)),
    }
    if "probability" in content:
        values["probability"] = _numbers(content["probability"], at=f"{where}: probability", low=0.01, high=1.0)
    if "active_frames" in content:
        values["active_frames"] = _names(content["active_frames"], at=f"{where}: active_frames", known=ACTIVE_FRAMES)
    return values


def _magnitudes(ops: object, *, at: str) -> tuple[tuple[str, FloatRange], ...]:
    """Every op's magnitude range, in the file's order."""
    result = []
    for name, table in _table(ops, at=at).items():
        if name not in op_names():
            _fail(f"{at}.{name[:60]}: there is no such op.{nearest(name[:60], op_names())}")
        op = get_op(name)
        _table(table, at=f"{at}.{name}", required=("magnitude",))
        magnitude = _table(table["magnitude"], at=f"{at}.{name}.magnitude", required=(op.magnitude_name,))
        key = f"{at}.{name}.magnitude.{op.magnitude_name}"
        result.append((name, _float_range(magnitude[op.magnitude_name], at=key, low=op.low, high=op.high)))
    if not result:
        _fail(f"{at} must hold at least one op. Known: {', '.join(op_names())}.")
    return tuple(result)


def _int_range(value: object, *, at: str, low: int, high: int) -> IntRange:
    first, last = _pair(_table(value, at=at, required=("int",))["int"], at=f"{at}.int")
    with _space_errors():
        first, last = (rules.whole(bound, at=f"{at}.int", low=low, high=high) for bound in (first, last))
    if first > last:
        _fail(f"{at}.int: low <= high must hold, but got low={first}, high={last}")
    return IntRange(first, last)


def _float_range(value: object, *, at: str, low: float, high: float) -> FloatRange:
    table = _table(value, at=at, required=("float",), optional=("log",))
    first, last = _pair(table["float"], at=f"{at}.float")
    with _space_errors():
        first, last = (rules.number(bound, at=f"{at}.float", low=low, high=high) for bound in (first, last))
    log = table.get("log", False)
    if not isinstance(log, bool):
        _fail(f"{at}.log must be true or false, got {rules.show(log)}")
    try:
        return FloatRange(first, last, log=log)
    except SpaceError as error:
        _fail(f"{at}.float: {error}")


def _numbers(value: object, *, at: str, low: float, high: float) -> FloatRange | Choice:
    """A range of floats, or a choice of them."""
    if isinstance(value, Mapping) and "choice" in value:
        options = _options(value, at=at)
        with _space_errors():
            return Choice(tuple(rules.number(option, at=f"{at}.choice", low=low, high=high) for option in options))
    return _float_range(value, at=at, low=low, high=high)


def _names(value: object, *, at: str, known: tuple[str, ...]) -> Choice:
    options = _options(value, at=at)
    with _space_errors():
        return Choice(tuple(rules.choice(option, at=f"{at}.choice", known=known) for option in options))


def _options(value: object, *, at: str) -> list[Any]:
    options = _table(value, at=at, required=("choice",))["choice"]
    if not isinstance(options, list) or not options:
        _fail(f"{at}.choice must be a list of at least one option, got {rules.show(options)}")
    if any(option in options[:i] for i, option in enumerate(options)):
        _fail(f"{at}.choice must not state an option twice, got {rules.show(options)}")
    return options


def _pair(value: object, *, at: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2:
        _fail(f"{at} must be [low, high], got {rules.show(value)}")
    return value[0], value[1]


def _table(
    value: object, *, at: str, required: tuple[str, ...] | None = None, optional: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    if required is not None:
        with _space_errors():
            return rules.keys(value, at=at, required=required, optional=optional)
    if not isinstance(value, Mapping):
        _fail(f"{at} must be a table, got {rules.show(value)}")
    return value


@contextmanager
def _space_errors() -> Iterator[None]:
    """Inside, what a rule refuses is the space's mistake, not a policy's."""
    try:
        yield
    except PolicyError as error:
        raise SpaceError(str(error)) from None


def _fail(message: str) -> NoReturn:
    raise SpaceError(message)
