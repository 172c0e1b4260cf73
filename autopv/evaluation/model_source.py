"""Samples of a trained model as a set of images."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from autopv import __version__
from autopv.errors import DataError
from autopv.evaluation.image_source import Decoded, ImageSource, SourceChangedError, fit_image, quantised
from autopv.models.base import VideoGenerator
from autopv.models.labels import draw_labels
from autopv.training.checkpoint import FILE_NAME, check_family, load_generator, model_file, read_info
from autopv.training.measure import names_of_labels
from autopv.training.streams import stream

RUN_FILE_NAME = "run.json"
RUN_FORMAT_VERSION = 6
"""Of run.json as a search writes it now. What is read of it here has stood in all of them, from format 1 on."""
_MODEL_FOLDER = "model"
# Samples come in whole chunks of this size, whatever is asked for, so that a sample depends on its number alone.
CHUNK_IMAGES = 64


class ModelSource(ImageSource):
    """The first `num_samples` samples that a checkpoint's model gives for a seed, rounded to 8 bits.

    path: a checkpoint file, or a folder whose `model_file` is meant (`file`): of a full training, its best look's.
    Of a model with classes each sample has the class that it was asked for, as often as among the training images.
    Equal seeds give equal samples, on devices of one type and with one version of torch; more samples begin with the
    same ones. The model is loaded when the first sample is asked for.
    """

    def __init__(
        self, path: Path, *, label: str, num_samples: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        if num_samples < 1:
            raise DataError(f"num_samples >= 1 must hold, but got num_samples={num_samples}")
        self.file = model_file(path)
        self.info = read_info(self.file)
        check_family(self.info, path=self.file)  # now rather than after the features of all real images
        names = [f"{index:06d}" for index in range(num_samples)]
        self.seed = seed
        classes = None
        if self.info.class_names:
            chunks = range(-(-num_samples // CHUNK_IMAGES))
            classes = [name for chunk in chunks for name in self._class_names(chunk)][:num_samples]
        super().__init__(label, kind="model", names=names, classes=classes, has_masks=False)
        self._device = torch.device(device)
        self._checkpoint_digest = _file_digest(self.file)
        self._model: VideoGenerator | None = None
        self._latest: tuple[int, Tensor] | None = None

    @property
    def side_px(self) -> int:
        return self.info.size_px

    def fingerprint(self, start: int, stop: int) -> str:
        # Another device type or version of torch may draw and round differently, another autopv may sample otherwise.
        versions = f"autopv {__version__}, torch {torch.__version__}, {self._device.type}"
        identity = f"model {self._checkpoint_digest} {self.seed} {start} {stop} {CHUNK_IMAGES} {versions}"
        return hashlib.sha256(identity.encode()).hexdigest()

    def _decode(self, start: int, stop: int, *, size_px: int) -> Sequence[Decoded]:
        decoded: list[Decoded] = []
        for index in range(start, stop):
            number, place = divmod(index, CHUNK_IMAGES)
            decoded.append((fit_image(self._chunk(number)[place], size_px=size_px), None))
        return decoded

    def _chunk(self, number: int) -> Tensor:
        """One chunk's samples, uint8; the latest stay, for callers that read in smaller pieces."""
        if self._latest is None or self._latest[0] != number:
            model = self._loaded()
            generator = stream(self.seed, purpose="samples", step=number, device=self._device)
            with torch.inference_mode():
                labels_B = self._labels(number) if self.info.class_names else None
                samples_NCHW = model.sample_last_frame(CHUNK_IMAGES, labels=labels_B, generator=generator)
                self._latest = number, quantised(samples_NCHW.float(), label=self.label)
        return self._latest[1]

    def _labels(self, number: int) -> Tensor:
        """What one chunk's samples are asked to be; on the CPU, so that it is the same whatever samples them."""
        generator = stream(self.seed, purpose="labels", step=number)
        return draw_labels(torch.tensor(self.info.class_counts), CHUNK_IMAGES, generator=generator)

    def _class_names(self, number: int) -> list[str]:
        return names_of_labels(self._labels(number).tolist(), self.info.class_names)

    def _loaded(self) -> VideoGenerator:
        if self._model is None:
            model, _ = load_generator(self.file, device=self._device)
            # A training that goes on replaces its checkpoint; these would not be the samples of the fingerprint.
            if _file_digest(self.file) != self._checkpoint_digest:
                raise SourceChangedError(
                    f"a checkpoint must not change while it is evaluated, but that of {self.label!r} was replaced; "
                    "copy the folder, or run again when its training has ended"
                )
            self._model = model
        return self._model


def find_model(path: Path) -> Path | None:
    """A checkpoint file as it is, a checkpoint's folder, or that of the run in this one; None for anything else.

    Raises: DataError for a run that has no model yet, or is of a format that is not known.
    """
    if path.is_file() or model_file(path).is_file():
        return path
    if not (path / RUN_FILE_NAME).is_file():
        return None
    try:
        record = json.loads((path / RUN_FILE_NAME).read_text(encoding="utf-8"))
        version = record["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path / RUN_FILE_NAME} is damaged and cannot be read: {error}") from error
    if version not in range(1, RUN_FORMAT_VERSION + 1):
        raise DataError(
            f"this autopv ({__version__}) samples from runs of format 1 to {RUN_FORMAT_VERSION}, but {str(path)!r} has "
            f"{version}"
        )
    model = path / _MODEL_FOLDER
    if not (model / FILE_NAME).is_file():
        raise DataError(
            f"a run to evaluate must have ended with a model, but {str(path)!r} has no {_MODEL_FOLDER}/{FILE_NAME}; "
            f"finish it by `autopv resume {path}`, or name the checkpoint folder of one of its trials"
        )
    return model


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
