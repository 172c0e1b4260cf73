"""How near every arm comes to the real images of each class: what its verification runs found, put together."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autopv.metrics.classes import ClassKernel
from autopv.search.ledger import VerificationResult
from autopv.search.run_folder import RunFolder, write_json

_FILE_NAME = "classes.json"


def write_class_distances(item_folder: Path, classes: Mapping[str, ClassKernel]) -> None:
    """Writes what one item's last look found within each class."""
    write_json(item_folder / _FILE_NAME, {name: asdict(one) for name, one in classes.items()})


def class_distances(
    folder: RunFolder, results: Sequence[VerificationResult], *, class_names: Sequence[str]
) -> dict[str, Any]:
    """A JSON-ready record of all arms that were verified.

    num_reference: real images of each class that could be measured. too_few: classes that could not. arms: by arm and
    class the mean kernel distance x 1000 over the seeds, each seed's, and the standard error of a single one: seeds
    share the real images, so their mean may be no better.
    """
    found: dict[str, list[dict[str, ClassKernel]]] = {}
    for result in results:
        if result.checkpoint is None or result.distance is None:
            continue
        path = folder.item(result.checkpoint) / _FILE_NAME
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault(result.arm, []).append({name: ClassKernel(**one) for name, one in stored.items()})
    runs = [run for of_arm in found.values() for run in of_arm]
    num_reference = {name: run[name].num_reference for name in class_names for run in runs if name in run}
    return {
        "num_reference": num_reference,
        "too_few": [name for name in class_names if name not in num_reference],
        "arms": {
            arm: {
                name: _figures([run[name] for run in of_arm if name in run])
                for name in num_reference
                if any(name in run for run in of_arm)
            }
            for arm, of_arm in found.items()
        },
    }


def _figures(kernels: Sequence[ClassKernel]) -> dict[str, Any]:
    by_seed = [one.kernel for one in kernels]
    return {
        "kernel": sum(by_seed) / len(by_seed),
        "standard_error": math.sqrt(sum(one.standard_error**2 for one in kernels) / len(kernels)),
        "by_seed": by_seed,
    }
