"""The feature extractors by name, entry point, address in a package, or file.

lite0, inception, inception-legacy     those of autopv
<name>                                 an entry point of the group `autopv.extractors`, in any installed package
package.module:attribute               an nn.Module, a class or a factory of one, or a subclass of Extractor
path/to/network.pt                     a TorchScript file (.pt, .pth, .ts, .torchscript)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from pathlib import Path
from typing import TYPE_CHECKING

from autopv.errors import MetricError, nearest
from autopv.metrics.features import Extractor

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINT_GROUP = "autopv.extractors"
_BUILT_IN = {
    "lite0": "autopv.metrics.lite0:Lite0Extractor",
    "inception": "autopv.metrics.inception:InceptionExtractor",
    "inception-legacy": "autopv.metrics.inception:LegacyInceptionExtractor",
}
_FILE_SUFFIXES = (".pt", ".pth", ".ts", ".torchscript")


@dataclass(frozen=True, kw_only=True)
class _Source:
    """What makes one extractor at any input size; its network is in memory once."""

    make: Callable[[int], Extractor]
    default_input_size_px: int


def extractor_names() -> tuple[str, ...]:
    """The names that `load_extractor` knows: autopv's own, then those of installed packages."""
    return (*_BUILT_IN, *user_entry_points())


def user_entry_points() -> dict[str, EntryPoint]:
    """The extractors that installed packages offer, by name.

    Raises: MetricError where two packages offer one name, or one offers a name of autopv's own.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        other = found.get(point.name)
        taken_by = "autopv" if point.name in _BUILT_IN else other and other.value
        # One package seen twice, as an editable install beside a wheel, is no conflict.
        if taken_by and taken_by != point.value:
            raise MetricError(
                f"an extractor's name must be offered once, but {point.name!r} is offered by {taken_by} and by "
                f"{point.value} (entry points {ENTRY_POINT_GROUP}); uninstall one of the packages"
            )
        found[point.name] = point
    return found


def load_extractor(spec: str, *, input_size_px: int | None = None) -> Extractor:
    """The extractor of that name, entry point, address or file, loaded once per process.

    input_size_px: what images are resized to; by default what the extractor is made for.
    Raises: MetricError for an unknown name, a network that breaks the rules of autopv.metrics.user_networks, or
        weights that are missing or not the expected ones.
    """
    if spec not in _BUILT_IN and spec.endswith(_FILE_SUFFIXES):
        # Workers have other working folders.
        spec = str(Path(spec).expanduser().resolve())
    return _load(spec, _source(spec).default_input_size_px if input_size_px is None else input_size_px)


@cache
def _load(spec: str, input_size_px: int) -> Extractor:
    extractor = _source(spec).make(input_size_px)
    extractor.spec = spec
    return extractor


@cache
def _source(spec: str) -> _Source:
    if spec in _BUILT_IN:
        return _from_address(_BUILT_IN[spec], name=spec)
    if spec.endswith(_FILE_SUFFIXES):
        return _from_file(Path(spec))
    offered = user_entry_points()
    if spec in offered:
        return _from_address(offered[spec].value, name=spec)
    if ":" in spec:
        return _from_address(spec, name=spec)
    raise MetricError(
        f"unknown feature extractor {spec!r}.{nearest(spec, extractor_names())} A package.module:attribute or the "
        f"path of a TorchScript file ({', '.join(_FILE_SUFFIXES)}) is taken too"
    )


def _from_file(path: Path) -> _Source:
    from autopv.metrics.user_networks import read_network

    network, digest = read_network(path)
    return _from_network(network, name=path.name, weights_digest=digest)


def _from_address(address: str, *, name: str) -> _Source:
    from torch import nn

    from autopv.metrics.user_networks import network_digest

    found = _look_up(address)
    if isinstance(found, type) and issubclass(found, Extractor):
        kind = found
        if isabstract(kind) or not hasattr(kind, "name") or not hasattr(kind, "num_features"):
            raise MetricError(
                f"a subclass of Extractor must set name and num_features and define digest and forward_rgb, but "
                f"{address} does not"
            )
        return _Source(
            make=lambda input_size_px: kind(input_size_px=input_size_px),
            default_input_size_px=kind.default_input_size_px,
        )
    try:
        network = found() if callable(found) and not isinstance(found, nn.Module) else found
    except TypeError as error:
        raise MetricError(f"{address} must be callable without arguments, but calling it failed: {error}") from error
    if not isinstance(network, nn.Module):
        raise MetricError(
            f"{address} must be an nn.Module, a class or a factory of one without arguments, or a subclass of "
            f"autopv.metrics.features.Extractor, but it is {_described(found, made=network)}"
        )
    return _from_network(network, name=name, weights_digest=network_digest(network))


def _from_network(network: "nn.Module", *, name: str, weights_digest: str) -> _Source:
    from autopv.metrics.user_networks import UserExtractor, declared_input_size_px

    return _Source(
        make=lambda input_size_px: UserExtractor(
            network, name=name, weights_digest=weights_digest, input_size_px=input_size_px
        ),
        default_input_size_px=declared_input_size_px(network),
    )


def _look_up(address: str) -> object:
    module_name, _, attribute = address.partition(":")
    try:
        found: object = import_module(module_name)
    except (ImportError, ValueError) as error:
        raise MetricError(
            f"the extractor {address!r} needs the module {module_name!r}, but it cannot be imported: {error}; install "
            "its package, or put its folder on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise MetricError(
                f"the extractor {address!r} needs {attribute!r} in {module_name}, which has none."
                f"{nearest(part, [name for name in dir(found) if not name.startswith('_')])}"
            )
        found = getattr(found, part)
    return found


def _described(found: object, *, made: object) -> str:
    return f"{type(found).__name__}" if made is found else f"a callable that returned {type(made).__name__}"
