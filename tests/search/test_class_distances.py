"""Distances within classes, from the worker that measures an item to the record of the run; runs of before classes."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from autopv.data.class_labels import ClassLabels
from autopv.errors import RunFolderError
from autopv.metrics.classes import ClassKernel
from autopv.metrics.metric import make_metric
from autopv.policy import Policy
from autopv.search.class_distances import class_distances, write_class_distances
from autopv.search.ledger import VerificationResult
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.trial import Trial, WorkerInputs, item_to_config
from autopv.search.work import WorkItem
from autopv.training.checkpoint import read_info
from autopv.training.plan import TrainingPlan


def result_of(arm: str, seed: int, *, failure: str | None = None) -> VerificationResult:
    distance = None if failure else 1.0
    return VerificationResult(arm=arm, seed=seed, distance=distance, failure=failure, checkpoint=f"verify-{arm}-{seed}")


def kernel(value: float, *, standard_error: float = 1.0) -> ClassKernel:
    return ClassKernel(kernel=value, standard_error=standard_error, num_reference=8, num_generated=20)


def test_seeds_of_an_arm_are_put_together(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    found = {
        ("plain", 1): {"crack": kernel(10.0, standard_error=3.0), "good": kernel(1.0)},
        ("plain", 2): {"crack": kernel(20.0, standard_error=4.0)},
        ("blur", 1): {"crack": kernel(5.0), "good": kernel(2.0)},
        ("blur", 2): {"crack": kernel(-100.0)},  # of a run that failed afterwards
    }
    for (arm, seed), classes in found.items():
        item = folder.item(f"verify-{arm}-{seed}")
        item.mkdir(parents=True)
        write_class_distances(item, classes)
    results = [result_of("plain", 1), result_of("plain", 2), result_of("blur", 1)]
    results += [result_of("blur", 2, failure="diverged"), result_of("blur", 3)]
    record = class_distances(folder, results, class_names=("crack", "good", "rust"))
    assert record == json.loads(json.dumps(record))
    assert record["num_reference"] == {"crack": 8, "good": 8}
    assert record["too_few"] == ["rust"]
    plain = record["arms"]["plain"]
    assert plain["crack"] == {"kernel": 15.0, "standard_error": pytest.approx(12.5**0.5), "by_seed": [10.0, 20.0]}
    assert plain["good"]["by_seed"] == [1.0]
    assert record["arms"]["blur"]["crack"]["by_seed"] == [5.0]


def test_a_worker_trains_by_class_and_measures_within_classes(tmp_path: Path, quick_metric: str) -> None:
    labels_N = torch.arange(24) % 3 - 1
    images_NCHW = torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    folder = RunFolder.create(tmp_path / "run")
    names = [("good", ".", "crack")[label] for label in labels_N.tolist()]
    make_metric(quick_metric, images_NCHW, data_digest="", num_generated=24, reference_classes=names).save(
        folder.metric("final")
    )
    item = WorkItem(
        key="verify-x-1", label="x", policy=Policy.image_only().to_dict(), seed=0, rungs=(1.0,), split="final", flops=1
    )
    inputs = WorkerInputs(
        run_folder=str(folder.path),
        train_images_NCHW=images_NCHW,
        train_masks_NHW=None,
        train_classes=ClassLabels(("crack", "good"), labels_N),
        model="hvae",
        preset="tiny",
        plan=TrainingPlan(total_flops=2e8, batch_size=4),
        device="cpu",
    )
    trial = object.__new__(Trial)
    trial.setup(item_to_config(item), inputs=inputs, silence_s=60.0)
    report = trial.step()
    assert report["failure"] is None
    assert report["fraction"] == 1.0
    assert read_info(folder.item(item.key)).class_names == ("crack", "good")
    record = class_distances(folder, [result_of("x", 1)], class_names=("crack", "good"))
    assert record["num_reference"] == {"crack": 8, "good": 8}
    assert len(record["arms"]["x"]["crack"]["by_seed"]) == 1


def test_a_run_of_the_format_before_had_no_classes(tmp_path: Path) -> None:
    settings: dict[str, object] = {field.name: [] for field in fields(RunSettings) if field.name != "classes"}
    folder = RunFolder.create(tmp_path / "run")
    (folder.path / "run.json").write_text(json.dumps(settings | {"format_version": 5}))
    assert folder.settings().classes is False
    (folder.path / "run.json").write_text(json.dumps(settings | {"format_version": 4}))
    with pytest.raises(RunFolderError, match="has format_version 4"):
        folder.settings()
