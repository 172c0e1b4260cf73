"""What this machine offers, and what is missing for what."""

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autopv import __version__
from autopv.errors import AutopvError


def doctor_lines() -> Iterator[str]:
    """One line per finding; those that lack something begin with `missing`."""
    import torch

    yield f"ok       autopv {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield f"ok       {cores} cores for cpu budgets (one thread per worker), {memory_gib:.0f} GiB memory"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield f"ok       GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield "missing  a GPU that torch can use; gpu budgets need one, cpu budgets do not"
    yield _workers_line(cores or 1)
    for package in ("torch", "torchvision", "ray", "optuna", "kornia", "clean-fid"):
        yield _package(package)
    yield _check("extractor weights lite0, for the metric fd_lite0", _load_lite0)
    yield _check("extractor weights inception, for the metric fid", _find_inception)
    yield from _user_extractor_lines()
    yield from _model_lines()
    yield _check("demo data elpv", _find_elpv)
    yield _check("demo data textures", _find_textures)
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    yield f"{'ok      ' if free_gib > 1 else 'missing '} {free_gib:.0f} GiB of free disk in {Path.cwd()}"


def _workers_line(cores: int) -> str:
    import torch

    has_gpu = torch.cuda.is_available()
    way = "nccl" if has_gpu else "gloo"
    if not torch.distributed.is_available() or not torch.distributed.is_backend_available(way):
        return f"missing  torch.distributed with {way}; train --num-workers needs it to share gradients"
    most = f"{torch.cuda.device_count()}, a GPU each" if has_gpu else f"{cores}, a core each"
    return f"ok       train --num-workers up to {most} (gradients by {way})"


def _package(name: str) -> str:
    try:
        return f"ok       {name} {version(name)}"
    except PackageNotFoundError:
        return f"missing  {name}: pip install {name}"


def _check(what: str, action: Callable[[], object]) -> str:
    try:
        action()
    except AutopvError as error:
        return f"missing  {what}: {error}"
    return f"ok       {what}"


def _load_lite0() -> None:
    from autopv.metrics.extractors import load_extractor

    load_extractor("lite0", input_size_px=64)


def _find_inception() -> None:
    from autopv.metrics.inception import official_weights
    from autopv.metrics.weights import read_weights

    read_weights(official_weights(), download=False)


def _user_extractor_lines() -> Iterator[str]:
    from autopv.metrics.extractors import load_extractor, user_entry_points

    try:
        points = user_entry_points()
    except AutopvError as error:
        yield f"missing  extractors of installed packages: {error}"
        return
    for name, point in points.items():
        yield _check(f"extractor {name} ({point.value})", partial(load_extractor, name))


def _model_lines() -> Iterator[str]:
    from autopv.models.base import model_names, model_package, preset_names

    for name in model_names():
        package = model_package(name)
        yield _check(f"model {name}" + (f", of {package}" if package else ""), partial(preset_names, name))


def _find_elpv() -> None:
    from importlib.util import find_spec

    from autopv.errors import DataError

    if find_spec("elpv_dataset") is None:
        raise DataError("pip install elpv-dataset (its licence is CC-BY-NC-SA-4.0)")


def _find_textures() -> None:
    from importlib.util import find_spec

    from autopv.errors import DataError

    if find_spec("skimage") is None:
        raise DataError("pip install scikit-image (its photographs are CC0)")
