"""The run folder: the whole truth about one job, from which it can always go on."""

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from autopv import __version__
from autopv.errors import RunFolderError
from autopv.evaluation.model_source import RUN_FORMAT_VERSION

# The format before the present one, which says nothing of classes: there were none.
_WITHOUT_CLASSES = 5


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What a job was asked to do and what was settled before its first trial; `run.json`, written once.

    data_digest and splits_digest: what images and splits must still be when the job is resumed.
    classes: whether models learn of which class each image is.
    trial_flops: training FLOPs of one full trial and of one verification run.
    sampler: who proposes policies (one of samplers.SAMPLERS). stopping: of trials half way (one of study.STOPPING).
    repeat_share: of the proposals, to run promising policies again. screen: what a policy's frames must leave of the
    image to be tried, as R^2. given: policies to try first, by name; warm_start: the files and runs they came from.
    train_steps: length of the training that the search is for, in image-only steps; None for that of a trial.
    rungs: shares of trial_flops at which a trial is measured. training: the training plan as its own dict.
    budget, num_reserved: of the first launch; what extensions made of them stands in the ledger.
    num_reserved: verification runs that the search keeps budget for.
    trials_per_gpu: workers that share one GPU. address: the Ray cluster, or None for this machine alone.
    """

    data: str
    size_px: int
    channels: int
    group_by: str | None
    data_digest: str
    splits_digest: str
    num_images: int
    model: str
    classes: bool
    preset: str
    metric: str
    metric_num_images: int
    space: str
    space_digest: str
    sampler: str
    stopping: str
    repeat_share: float
    screen: float
    given: Mapping[str, Mapping[str, Any]]
    warm_start: tuple[str, ...]
    budget: str
    seed: int
    num_workers: int
    trials_per_gpu: int
    address: str | None
    num_seeds: int
    trial_steps: int
    train_steps: int | None
    trial_flops: float
    rungs: tuple[float, ...]
    training: Mapping[str, Any]
    num_reserved: int
    versions: Mapping[str, str]
    autopv_version: str = __version__
    format_version: int = RUN_FORMAT_VERSION

    @property
    def extrapolation(self) -> float:
        """How many times as long as a trial the training is that the search is for; at least 1."""
        return 1.0 if self.train_steps is None else max(1.0, self.train_steps / self.trial_steps)


class RunFolder:
    """Paths inside a run folder, its settings, and the lock that keeps a second driver out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials = path / "trials"
        self.study = path / "study.db"
        self.ledger = path / "ledger.db"
        self.events = path / "events.jsonl"
        self.space = path / "space.toml"
        self.policy = path / "policy.json"
        self.best_found = path / "best_found.json"
        self.result = path / "result.json"
        self.model = path / "model"
        self._lock: IO[str] | None = None

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Nothing, if a new run can be made there.

        Raises:
            RunFolderError: the folder holds something.
        """
        if (path / "run.json").exists():
            raise RunFolderError(
                f"--out {path} already holds a run; nothing is overwritten. "
                f"Go on with it by `autopv resume {path}`, or choose another folder."
            )
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunFolderError(f"--out {path} exists and is not an empty folder; choose another one.")

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """A new, empty run folder.

        Raises:
            RunFolderError: the folder holds something, or cannot be written.
        """
        cls.check_free(path)
        folder = cls(path)
        try:
            folder.trials.mkdir(parents=True)
        except OSError as error:
            raise RunFolderError(f"--out {path} cannot be made: {error.strerror}.") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run folder of an earlier job.

        Raises:
            RunFolderError: there is none, or it was made in a format this version does not know.
        """
        if not (path / "run.json").exists():
            raise RunFolderError(
                f"{path} is not a run folder: it has no run.json. `autopv search --out {path}` starts one."
            )
        return cls(path)

    def item(self, key: str) -> Path:
        """The folder of one trial or verification run."""
        return self.path / ("verify" if key.startswith("verify-") else "trials") / key

    def take_over(self, key: str, *, earlier: str) -> None:
        """Nothing; what an earlier item has trained and measured is from now on this one's, if it still is there."""
        if self.item(earlier).exists() and not self.item(key).exists():
            self.item(earlier).rename(self.item(key))

    def metric(self, split: str) -> Path:
        """The file with the references of the metric on one split."""
        return self.path / "metrics" / f"{split}.safetensors"

    def write_settings(self, settings: RunSettings) -> None:
        """Writes run.json; from here on the folder holds a run."""
        write_json(self.path / "run.json", asdict(settings))

    def settings(self) -> RunSettings:
        """What the job was asked to do.

        Raises:
            RunFolderError: run.json is damaged or of another format version.
        """
        path = self.path / "run.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            version = record["format_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path} is damaged and cannot be read: {error}.") from error
        if version == _WITHOUT_CLASSES:
            record |= {"classes": False, "format_version": RUN_FORMAT_VERSION}
        elif version != RUN_FORMAT_VERSION:
            raise RunFolderError(
                f"{path} has format_version {version}, but autopv {__version__} reads {_WITHOUT_CLASSES} and "
                f"{RUN_FORMAT_VERSION}; "
                f"it was made by autopv {record.get('autopv_version', 'of unknown version')}."
            )
        known = {field.name for field in fields(RunSettings)}
        if set(record) != known:
            raise RunFolderError(f"{path} is damaged: unexpected or missing keys {sorted(set(record) ^ known)}.")
        return RunSettings(**{**record, "rungs": tuple(record["rungs"]), "warm_start": tuple(record["warm_start"])})

    def lock(self) -> None:
        """Keeps other drivers out until this process ends.

        Raises:
            RunFolderError: another driver works on this run.
        """
        try:
            file = (self.path / "lock").open("a+", encoding="utf-8")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunFolderError(
                f"Another autopv (process {file.read().strip() or 'unknown'}) works on {self.path}; "
                f"watch it with `autopv status {self.path}`."
            ) from None
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {error.strerror}.") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        """Lets other drivers in again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def write_json(path: Path, record: object) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
