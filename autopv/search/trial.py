"""What runs in a worker: one work item at a time, trained, looked at, and saved so that it can be gone on with."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from torch import Tensor

from autopv.data.filed import FiledTensor
from autopv.errors import BudgetError, MetricError, ModelError, TrainingDiverged
from autopv.metrics.metric import LastFrameMetric
from autopv.policy import Policy
from autopv.search.run_folder import RunFolder, write_json
from autopv.search.work import Look, WorkItem
from autopv.training.checkpoint import FILE_NAME, resume_checkpoint, save_checkpoint
from autopv.training.fastest import default_execution
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

# A worker reports this often: the driver's chance to show progress and to end what the budget no longer pays for.
REPORT_EVERY_S = 2.0
CHECKPOINT_EVERY_S = 20.0
_LOOKS_FILE = "looks.json"
_NO_TIME = {"training_s": 0.0, "rendering_s": 0.0, "evaluation_s": 0.0}


@dataclass(frozen=True, kw_only=True)
class WorkerInputs:
    """What every item of a job shares. Metrics lie in the run folder, that of `final` only once verification begins."""

    run_folder: str
    train_images_NCHW: Tensor | FiledTensor
    train_masks_NHW: Tensor | FiledTensor | None
    model: str
    preset: str
    plan: TrainingPlan
    device: str


def item_to_config(item: WorkItem) -> dict[str, Any]:
    """A Ray trial configuration that holds the item as one JSON string, which Ray neither flattens nor rewrites."""
    return {"item": json.dumps(asdict(item))}


class Trial(tune.Trainable):
    """Ray's view of a work item: each step trains for about two seconds, or ends with a look."""

    def setup(self, config: dict[str, Any], *, inputs: WorkerInputs) -> None:
        torch.set_num_threads(1)
        self._inputs = inputs
        self._folder = RunFolder(Path(inputs.run_folder))
        self._metrics: dict[str, LastFrameMetric] = {}
        self._images_NCHW = _opened(inputs.train_images_NCHW)
        self._masks_NHW = None if inputs.train_masks_NHW is None else _opened(inputs.train_masks_NHW)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._unbuildable is not None:
            # Without a trainer there is nothing to report but why: the item ends as failed, its worker lives on.
            nothing = {"progress": 0.0, "steps": 0, "flops": 0.0, "flops_done": 0.0}
            return {"fraction": None, "failure": self._unbuildable, **nothing, **_NO_TIME}
        started_s = time.monotonic()
        self._training_s = self._evaluation_s = 0.0
        flops_before, rendering_before_s = self._trainer.flops_spent, self._trainer.rendering_s
        report: dict[str, Any] = {"fraction": None, "failure": None}
        try:
            look = self._replay() or self._advance(deadline_s=started_s + REPORT_EVERY_S)
        except (TrainingDiverged, MetricError) as error:
            report["failure"] = str(error)
            look = None
        if look is not None:
            report |= asdict(look)
        steps, flops = self._trainer.steps_done, self._trainer.flops_spent
        report |= {"progress": self._trainer.progress, "steps": steps, "flops": flops}
        report["flops_done"] = flops - flops_before
        rendering_s = self._trainer.rendering_s - rendering_before_s
        return {
            **report,
            "training_s": self._training_s,
            "rendering_s": rendering_s,
            "evaluation_s": self._evaluation_s,
        }

    def _begin(self, config: Mapping[str, Any]) -> None:
        item = WorkItem(**json.loads(config["item"]))
        inputs = self._inputs
        self._item = item
        self._unbuildable: str | None = None
        try:
            self._trainer = Trainer(
                inputs.model,
                preset=inputs.preset,
                size_px=self._images_NCHW.shape[-1],
                channels=self._images_NCHW.shape[1],
                policy=Policy.from_dict(item.policy, where=item.key),
                images_NCHW=self._images_NCHW,
                masks_NHW=self._masks_NHW,
                plan=inputs.plan,
                seed=item.seed,
                device=inputs.device,
                execution=default_execution(inputs.device),
            )
        except (ModelError, BudgetError) as error:
            self._unbuildable = str(error)
            return
        self._item_folder = self._folder.item(item.key)
        self._saved_s = time.monotonic()
        self._looks: list[Look] = []
        self._num_replayed = 0
        if (self._item_folder / FILE_NAME).exists():
            resume_checkpoint(self._trainer, self._item_folder)
            if (self._item_folder / _LOOKS_FILE).exists():
                records = json.loads((self._item_folder / _LOOKS_FILE).read_text(encoding="utf-8"))
                self._looks = [Look(**record) for record in records]

    def _replay(self) -> Look | None:
        """The next look that was already taken before this worker took over."""
        if self._num_replayed < len(self._looks):
            self._num_replayed += 1
            return self._looks[self._num_replayed - 1]
        return None

    def _advance(self, *, deadline_s: float) -> Look | None:
        """The next look, or None if the time for this step is up before."""
        fraction = self._item.rungs[len(self._looks)]
        started_s = time.monotonic()
        # Only the last look is annealed: what an earlier one is for, the average on the way tells as well.
        train = self._trainer.annealed_look if fraction >= self._item.rungs[-1] else self._trainer.averaged_look
        model = train(fraction, should_stop=lambda: time.monotonic() >= deadline_s)
        self._training_s = time.monotonic() - started_s
        if model is None:
            if time.monotonic() - self._saved_s >= CHECKPOINT_EVERY_S:
                self._save()
            return None
        started_s = time.monotonic()
        distance = measure(model, self._metric(), seed=self._item.seed)
        self._evaluation_s = time.monotonic() - started_s
        look = Look(fraction=fraction, distance=distance, steps=self._trainer.position, flops=self._trainer.flops_spent)
        self._save()
        self._looks.append(look)
        self._num_replayed = len(self._looks)
        write_json(self._item_folder / _LOOKS_FILE, [asdict(look) for look in self._looks])
        if fraction >= self._item.rungs[-1]:
            self._trainer.look = None  # the trunk is not needed any more: half the size on disk
            self._save()
        return look

    def _metric(self) -> LastFrameMetric:
        split = self._item.split
        if split not in self._metrics:
            self._metrics[split] = LastFrameMetric.load(self._folder.metric(split))
        return self._metrics[split]

    def _save(self) -> None:
        save_checkpoint(self._trainer, self._item_folder)
        self._saved_s = time.monotonic()


def _opened(images: Tensor | FiledTensor) -> Tensor:
    return images.open() if isinstance(images, FiledTensor) else images
