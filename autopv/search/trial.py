"""What runs in a worker: one work item at a time, trained, looked at, and saved so that it can be gone on with."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune
from torch import Tensor

from autopv.data.class_labels import ClassLabels
from autopv.data.filed import FiledTensor
from autopv.errors import BudgetError, DataError, MetricError, ModelError, StorageError, TrainingDiverged
from autopv.metrics.metric import LastFrameMetric
from autopv.policy import Policy
from autopv.search.class_distances import write_class_distances
from autopv.search.run_folder import RunFolder, write_json
from autopv.search.storage import is_storage_error, storage_error
from autopv.search.watchdog import watched
from autopv.search.work import Look, WorkItem
from autopv.training.checkpoint import FILE_NAME, resume_checkpoint, save_checkpoint
from autopv.training.execution import is_out_of_memory
from autopv.training.fastest import default_execution
from autopv.training.measure import measure_by_class
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

# A worker reports this often: the driver's chance to show progress and to end what the budget no longer pays for.
REPORT_EVERY_S = 2.0
# At most about this share of a worker's time goes into checkpoints. A crash destroys what was trained since the last
# one: half of (the time of one save / share) on average, and no less than half of what lies between two reports.
_SAVING_SHARE = 0.02
_LOOKS_FILE = "looks.json"


@dataclass(frozen=True, kw_only=True)
class WorkerInputs:
    """What every item of a job shares. Metrics lie in the run folder, that of `final` only once verification begins."""

    run_folder: str
    train_images_NCHW: Tensor | FiledTensor
    train_masks_NHW: Tensor | FiledTensor | None
    train_classes: ClassLabels | None = None
    model: str
    preset: str
    plan: TrainingPlan
    device: str


def item_to_config(item: WorkItem) -> dict[str, Any]:
    """A Ray trial configuration that holds the item as one JSON string, which Ray neither flattens nor rewrites."""
    return {"item": json.dumps(asdict(item))}


class Trial(tune.Trainable):
    """Ray's view of a work item: each step trains for about two seconds, or ends with a look.

    An item that cannot be trained reports `failure`, and its worker lives on for others. Where none can be (a full
    disk, say) the report says `halt`, with the name of an error of ours and its message, and the whole job stops.
    """

    _trainer: Trainer | None = None
    _failure: str | None = None
    _halt: tuple[str, str] | None = None

    def setup(self, config: dict[str, Any], *, inputs: WorkerInputs, silence_s: float) -> None:
        """silence_s: the process ends itself when it can report nothing for so long."""
        torch.set_num_threads(1)
        self._inputs, self._silence_s = inputs, silence_s
        self._folder = RunFolder(Path(inputs.run_folder))
        self._metrics: dict[str, LastFrameMetric] = {}
        self._images_NCHW: Tensor | None = None
        self._masks_NHW: Tensor | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self._training_s = self._evaluation_s = 0.0
        trainer = self._trainer
        _, _, flops_before, rendering_before_s = _standing(trainer)
        look = None
        if trainer is not None:
            with self._told():
                look = self._replay() or self._advance(trainer, deadline_s=time.monotonic() + REPORT_EVERY_S)
        report: dict[str, Any] = {"fraction": None, "failure": self._failure, "halt": self._halt}
        if look is not None:
            report |= asdict(look)
        progress, steps, flops, rendering_s = _standing(trainer)
        report |= {"progress": progress, "steps": steps, "flops": flops, "flops_done": flops - flops_before}
        if self._failure is not None:
            self._trainer = None  # its memory may be what others want
        times = {"training_s": self._training_s, "evaluation_s": self._evaluation_s}
        return {**report, **times, "rendering_s": rendering_s - rendering_before_s}

    def cleanup(self) -> None:
        """Saves what was trained since the last checkpoint: the item may go on elsewhere."""
        trainer = self._trainer
        if trainer is not None and self._halt is None and trainer.steps_done != self._saved_steps:
            with self._told():
                self._save(trainer)

    def _begin(self, config: Mapping[str, Any]) -> None:
        self._item = WorkItem(**json.loads(config["item"]))
        self._item_folder = self._folder.item(self._item.key)
        self._failure = None
        self._halt = None
        self._trainer = None
        self._looks: list[Look] = []
        self._num_replayed = 0
        with self._told():
            self._trainer = self._prepared()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A block that must not hang, and whose errors the next report tells: the item's own, or everybody's."""
        try:
            with watched(self._silence_s, folder=self._item_folder):
                yield
        except (ModelError, BudgetError, TrainingDiverged, MetricError) as error:
            self._failure = str(error)
        except (StorageError, DataError) as error:
            self._halt = (type(error).__name__, str(error))
        except OSError as error:
            if not is_storage_error(error):
                raise
            self._halt = (StorageError.__name__, str(storage_error(error, path=self._item_folder)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self._failure = f"the device's memory does not hold this training: {str(error).splitlines()[0]}"

    def _prepared(self) -> Trainer:
        """The item's training, from its beginning or from where its checkpoint stands."""
        inputs = self._inputs
        if self._images_NCHW is None:
            self._images_NCHW = _opened(inputs.train_images_NCHW)
            self._masks_NHW = None if inputs.train_masks_NHW is None else _opened(inputs.train_masks_NHW)
        trainer = Trainer(
            inputs.model,
            preset=inputs.preset,
            size_px=self._images_NCHW.shape[-1],
            channels=self._images_NCHW.shape[1],
            policy=Policy.from_dict(self._item.policy, where=self._item.key),
            images_NCHW=self._images_NCHW,
            masks_NHW=self._masks_NHW,
            classes=inputs.train_classes,
            plan=inputs.plan,
            seed=self._item.seed,
            device=inputs.device,
            execution=default_execution(inputs.device),
        )
        if (self._item_folder / FILE_NAME).exists():
            resume_checkpoint(trainer, self._item_folder)
            if (self._item_folder / _LOOKS_FILE).exists():
                records = json.loads((self._item_folder / _LOOKS_FILE).read_text(encoding="utf-8"))
                self._looks = [Look(**record) for record in records]
        self._save_due_s, self._saved_steps = time.monotonic(), trainer.steps_done
        return trainer

    def _replay(self) -> Look | None:
        """The next look that was already taken before this worker took over."""
        if self._num_replayed < len(self._looks):
            self._num_replayed += 1
            return self._looks[self._num_replayed - 1]
        return None

    def _advance(self, trainer: Trainer, *, deadline_s: float) -> Look | None:
        """The next look, or None if the time for this step is up before."""
        fraction = self._item.rungs[len(self._looks)]
        started_s = time.monotonic()
        # Only the last look is annealed: what an earlier one is for, the average on the way tells as well.
        train = trainer.annealed_look if fraction >= self._item.rungs[-1] else trainer.averaged_look
        model = train(fraction, should_stop=lambda: time.monotonic() >= deadline_s)
        self._training_s = time.monotonic() - started_s
        if model is None:
            if time.monotonic() >= self._save_due_s:
                self._save(trainer)
            return None
        started_s = time.monotonic()
        distance, classes = measure_by_class(
            model, self._metric(), class_names=trainer.class_names, seed=self._item.seed
        )
        self._evaluation_s = time.monotonic() - started_s
        look = Look(fraction=fraction, distance=distance, steps=trainer.position, flops=trainer.flops_spent)
        self._save(trainer)
        self._looks.append(look)
        self._num_replayed = len(self._looks)
        write_json(self._item_folder / _LOOKS_FILE, [asdict(look) for look in self._looks])
        if classes is not None:
            write_class_distances(self._item_folder, classes)
        if fraction >= self._item.rungs[-1]:
            trainer.look = None  # the trunk is not needed any more: half the size on disk
            self._save(trainer)
        return look

    def _metric(self) -> LastFrameMetric:
        split = self._item.split
        if split not in self._metrics:
            self._metrics[split] = LastFrameMetric.load(self._folder.metric(split))
        return self._metrics[split]

    def _save(self, trainer: Trainer) -> None:
        started_s = time.monotonic()
        save_checkpoint(trainer, self._item_folder)
        ended_s = time.monotonic()
        self._save_due_s = ended_s + (ended_s - started_s) / _SAVING_SHARE
        self._saved_steps = trainer.steps_done


def _standing(trainer: Trainer | None) -> tuple[float, int, float, float]:
    """Progress, steps, FLOPs and seconds of rendering of a training so far; nothing of one that could not be built."""
    if trainer is None:
        return 0.0, 0, 0.0, 0.0
    return trainer.progress, trainer.steps_done, trainer.flops_spent, trainer.rendering_s


def _opened(images: Tensor | FiledTensor) -> Tensor:
    return images.open() if isinstance(images, FiledTensor) else images
