"""Generator families of installed packages, by the entry points of the group `autopv.models`.

[project.entry-points."autopv.models"]
my-unet = "my_package.unet:MyUNet"        # the name that --model takes, and a subclass of VideoGenerator

A package is imported when one of its names is asked for, so that a broken one is in nobody else's way.
"""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract

from autopv.errors import ModelError
from autopv.models.base import VideoGenerator

ENTRY_POINT_GROUP = "autopv.models"


def offered_families() -> dict[str, list[EntryPoint]]:
    """Who offers each name, without importing anything: one entry point, or several that contradict each other."""
    offered: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: (point.name, point.value)):
        points = offered.setdefault(point.name, [])
        # One class seen twice, as in a package under its old and new name, is no contradiction.
        if all(point.value != other.value for other in points):
            points.append(point)
    return offered


def package_of(point: EntryPoint) -> str:
    """Name and version of the package that an entry point belongs to."""
    return "an unnamed package" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def load_installed(name: str, *, registered: type[VideoGenerator] | None) -> type[VideoGenerator] | None:
    """The family that an installed package offers under this name; None where none does.

    registered: the family of that name in this process, which is not replaced.
    Raises: ModelError where the name stands for two families, its module cannot be imported, or what is found there is
        no family that can be built.
    """
    points = offered_families().get(name, [])
    if not points:
        return None
    found = _load(points[0]) if len(points) == 1 else None
    # A family may be registered by its own module as well.
    if found is not None and registered in (None, found):
        return found
    claims = [f"{point.value} ({package_of(point)})" for point in points]
    if registered is not None:
        claims.append(f"{registered.__module__}:{registered.__qualname__}")
    raise ModelError(
        f"a model's name must stand for one family, but {name!r} stands for {' and for '.join(claims)}; "
        f"rename one (entry points {ENTRY_POINT_GROUP}), or uninstall its package"
    )


def _load(point: EntryPoint) -> type[VideoGenerator]:
    shown = f"the model {point.name!r} of {package_of(point)}"
    try:
        found: object = point.load()
    except Exception as error:  # a stranger's module can raise anything
        module = point.value.partition(":")[0].strip()
        raise ModelError(
            f"{shown} must be at {point.value}, but importing that failed: {type(error).__name__}: {error}; "
            f'`python -c "import {module}"` tells more; mend or reinstall the package, or choose another model'
        ) from error
    broken = _broken_rule(found)
    if broken is not None:
        raise ModelError(f"{shown} must {broken}")
    assert isinstance(found, type)
    return found


def _broken_rule(found: object) -> str | None:
    """What an entry point's value must do or be, and what it is instead; None where it can be built."""
    if not isinstance(found, type) or not issubclass(found, VideoGenerator):
        kind = f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"
        return f"be a subclass of autopv.models.base.VideoGenerator, but it is {kind}"
    if isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        return f"define every method that it promises, but {found.__name__} lacks {missing}"
    presets = getattr(found, "preset_sizes_px", None)
    if not isinstance(presets, Mapping) or not presets or not all(map(_is_sizes, presets.values())):
        return f'name its presets with their sizes, such as {{"tiny": (32, 16)}}, but preset_sizes_px is {presets!r}'
    return None


def _is_sizes(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(px, int) and px > 0 for px in value)
