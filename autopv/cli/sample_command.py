"""The command that samples a trained model."""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from autopv.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from autopv.models.base import VideoGenerator
    from autopv.training.checkpoint import CheckpointInfo

_LINE_EVERY_S = 5.0
_MAX_SEED = 2**63 - 1


def sample(arguments: argparse.Namespace) -> int:
    """Samples images or whole videos into files, and prints how many and how fast."""
    if not 0 <= arguments.temperature < math.inf:
        raise InputError(f"--temperature must be at least 0, but got {arguments.temperature}.")
    if not 0 <= arguments.seed <= _MAX_SEED:
        raise InputError(f"--seed must be a whole number from 0 to {_MAX_SEED}, but got {arguments.seed}.")
    import torch

    from autopv.report.preview import ANIMATIONS

    if arguments.out.suffix.lower() in ANIMATIONS and not arguments.frames:
        raise InputError(f"--out {arguments.out} is for videos in motion: add --frames, or take a .png file.")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda needs a GPU that torch can use, but there is none; see `autopv doctor`")
    from autopv.data.class_labels import NO_CLASS
    from autopv.evaluation.model_source import find_model
    from autopv.report.sample_files import open_sample_files
    from autopv.training.checkpoint import load_generator
    from autopv.training.measure import names_of_labels

    folder = find_model(arguments.checkpoint) or arguments.checkpoint
    model, info = load_generator(folder, device=arguments.device)
    label = _asked_label(arguments, info)
    _set_sampling(model, arguments, info)
    num_frames = model.num_frames if arguments.frames else 1
    if arguments.frames and num_frames == 1:
        print(f"{folder} is a model of images: each of its videos is one frame, the image.", file=sys.stderr)
    files = open_sample_files(
        arguments.out,
        num_samples=arguments.n,
        frames_TCHW=(num_frames, info.channels, info.size_px, info.size_px),
    )
    sampler = _Sampler(model, arguments=arguments, all_frames=num_frames > 1, label=label)
    drawn: Counter[str] = Counter()
    try:
        with files:
            for frames_BTCHW, labels in sampler.batches():
                names = names_of_labels(labels, info.class_names)
                drawn.update(names)
                # Where one class was asked for there is nothing to keep apart.
                files.write(frames_BTCHW, classes=names if names and label is None else None)
    except KeyboardInterrupt:
        print(f"\n{files.num_written} of {arguments.n} are in {arguments.out}", end="", file=sys.stderr)
        raise
    except OSError as error:
        raise InputError(
            f"--out {arguments.out} cannot be written any further: {error.strerror}. {files.num_written} of "
            f"{arguments.n} are there, whole; make room and take another folder, or lower -n"
        ) from error
    what = "images" if num_frames == 1 else f"videos of {num_frames} frames, most corrupted first,"
    if label is not None:
        what += f" of class {arguments.class_name}"
    told = [f"{count} of class {name}" for name, count in sorted(drawn.items()) if name != NO_CLASS]
    classes = f"; {', '.join(told)}" if label is None and told else ""
    print(
        f"{arguments.n} {what} of {info.size_px} px in {arguments.out} "
        f"({_rate_text(sampler.per_second)} {what.split()[0]}/s, writing left out){classes}; "
        f"policy {info.policy.describe()}"
    )
    return 0


def _asked_label(arguments: argparse.Namespace, info: "CheckpointInfo") -> int | None:
    """The label of the class that all samples shall be of; None where none was asked for. Raises: InputError."""
    name = arguments.class_name
    if name is None:
        return None
    if not info.class_names:
        raise InputError(
            f"--class {name} asks for one class, but the model in {arguments.checkpoint} was trained without classes: "
            "train one with `autopv train --classes`, or leave --class out"
        )
    if name not in info.class_names:
        raise InputError(f"--class {name} is no class of {arguments.checkpoint}.{nearest(name, info.class_names)}")
    return info.class_names.index(name)


def _set_sampling(model: "VideoGenerator", arguments: argparse.Namespace, info: "CheckpointInfo") -> None:
    """Nothing; the model samples as it was asked to. Raises: InputError where its family leaves no choice."""
    asked = {"num_steps": arguments.sampling_steps, "churn": arguments.churn, "guidance": arguments.guidance}
    changes = {kind: value for kind, value in asked.items() if value is not None}
    if changes and model.sampling is None:
        raise InputError(
            "--sampling-steps, --churn and --guidance are for families that sample in many passes; "
            f"{info.model_name} is not one of them"
        )
    if arguments.guidance is not None and not info.class_names:
        raise InputError(
            f"--guidance goes towards a class, but the model in {arguments.checkpoint} was trained without classes: "
            "leave it out"
        )
    if model.sampling is not None:
        model.sampling = replace(model.sampling, **changes)


class _Sampler:
    """Samples as bytes, batch by batch; knows how long the model took, and tells on stderr how long the rest will."""

    def __init__(
        self, model: "VideoGenerator", *, arguments: argparse.Namespace, all_frames: bool, label: int | None
    ) -> None:
        self._model, self._arguments, self._all_frames, self._label = model, arguments, all_frames, label
        self._num_done, self._took_s = 0, 0.0

    def batches(self) -> Iterator[tuple["Tensor", list[int]]]:
        """uint8 frames_BTCHW on the CPU, and their labels, none of a model without classes.

        Raises: InputError for a batch that does not fit the device's memory.
        """
        import torch

        from autopv.evaluation.image_source import quantised
        from autopv.training.measure import sample_batches

        asked = self._arguments
        batches = sample_batches(
            self._model,
            num_images=asked.n,
            seed=asked.seed,
            temperature=asked.temperature,
            batch_size=asked.batch,
            all_frames=self._all_frames,
            label=self._label,
        )
        began_s = last_line_s = time.monotonic()
        while True:
            started_s = time.monotonic()
            try:
                drawn = next(batches, None)
            except RuntimeError as error:
                # Only on a GPU does torch tell too little memory from other errors.
                if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                    raise
                raise InputError(f"--batch {asked.batch} must fit the memory of {asked.device}: lower it") from error
            if drawn is None:
                return
            frames_BTCHW, labels_B = drawn
            size, num_frames = frames_BTCHW.shape[:2]
            images = quantised(frames_BTCHW.flatten(0, 1), label=str(asked.checkpoint))
            self._took_s += time.monotonic() - started_s
            self._num_done += size
            yield images.view(size, num_frames, *images.shape[1:]), [] if labels_B is None else labels_B.tolist()
            now_s = time.monotonic()
            if now_s - last_line_s >= _LINE_EVERY_S and self._num_done < asked.n:
                last_line_s = now_s
                rate = self._num_done / (now_s - began_s)
                print(
                    f"{self._num_done}/{asked.n}  {_rate_text(rate)}/s  "
                    f"{(asked.n - self._num_done) / rate / 60:.1f} min left",
                    file=sys.stderr,
                    flush=True,
                )

    @property
    def per_second(self) -> float:
        """Samples per second of sampling alone."""
        return self._num_done / self._took_s


def _rate_text(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.2g}"
