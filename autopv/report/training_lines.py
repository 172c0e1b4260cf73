"""A full training for people: one line that is rewritten in place, lines for what happened, and what it came to."""

import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from autopv.report.class_table import class_counts_text
from autopv.report.numbers import distance_text, interval_text
from autopv.training.course import Course, LookRecord
from autopv.training.full_request import TrainResult
from autopv.training.listener import Beginning, FullProgress, TrainingListener

# In place of a line rewritten every two seconds, where there is no terminal to rewrite it on.
_LINE_EVERY_S = 15.0
_CLEAR_LINE = "\r\x1b[K"


class TrainingLines(TrainingListener):
    """Writes to a terminal, or plain lines to anything else; a context, whose end leaves the cursor on a fresh line."""

    def __init__(self, *, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._in_place = self._stream.isatty()
        self._is_open = False
        self._last_s = -_LINE_EVERY_S

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def note(self, text: str) -> None:
        clear = _CLEAR_LINE if self._is_open else ""
        self._is_open = False
        self._write(f"{clear}{text}\n")

    def began(self, beginning: Beginning) -> None:
        for line in beginning_lines(beginning):
            self.note(line)

    def progress(self, progress: FullProgress) -> None:
        line = progress_line(progress)
        if self._in_place:
            width = shutil.get_terminal_size().columns
            self._write(_CLEAR_LINE + line[: width - 1])
            self._is_open = True
        elif time.monotonic() - self._last_s >= _LINE_EVERY_S:
            self._last_s = time.monotonic()
            self._write(line + "\n")

    def looked(self, look: LookRecord, *, course: Course) -> None:
        if look.distance is not None and course.best is not None and course.best.distance is not None:
            verdict = "the best so far" if course.best == look else f"best so far {_named(course.best)}"
            self.note(f"look at step {look.step}: distance {distance_text(look.distance)}; {verdict}")

    def _write(self, text: str) -> None:
        print(text, end="", file=self._stream, flush=True)


def beginning_lines(beginning: Beginning) -> list[str]:
    """What is trained on what, where it is measured, when it is given up, and what that costs."""
    course, total = beginning.course, beginning.total_steps
    begins = "" if beginning.position == 0 else f", going on from step {beginning.position}"
    images = "all" if course.trained_on == "all" else "the train split's"
    lines = [f"Training with {beginning.policy} on {images} {beginning.num_images} images: {total} steps{begins}"]
    if beginning.classes:
        lines.append(class_counts_text(beginning.classes))
    if course.metric is None:
        lines.append(
            "Trained on every image, it is not measured and not stopped early: no image is left that it has not seen"
        )
        return lines
    looks = ", ".join(str(max(1, round(fraction * total))) for fraction in course.fractions)
    floor = "" if course.floor is None else f", floor {distance_text(course.floor)}"
    lines.append(f"measured by {course.metric['name']} (n = {course.metric['num_images']}{floor}) at step {looks}")
    if not course.fractions_ahead:
        return [*lines, "nothing is left to train"]
    if beginning.look_steps:
        share = beginning.look_steps / total
        lines.append(f"the looks before the end cost {beginning.look_steps} steps more ({share:.0%} of the training)")
    if course.patience and len(course.fractions) > course.patience:
        lines.append(f"ends early when {_in_a_row(course.patience)} nothing better")
    return lines


def progress_line(progress: FullProgress) -> str:
    """Step, loss, speed, time left and the best distance so far, in one line."""
    training = progress.training
    look = training.look_fraction
    towards = "" if look is None or look >= 1 else f" (look at {round(look * training.total_steps)})"
    parts = [
        f"step {training.position}/{training.total_steps}{towards}",
        f"loss {training.total_loss:.3f}",
        f"{progress.steps_per_s:.1f} steps/s",
        f"{duration_text(progress.seconds_ahead)} left",
    ]
    if progress.best is not None and progress.best.distance is not None:
        parts.append(f"best {distance_text(progress.best.distance)}")
    return "  ".join(parts)


def training_text(result: TrainResult, *, out: Path) -> str:
    """What a full training came to: every look, the best one, the floor, and why it ended."""
    steps = f"{result.steps} of {result.total_steps} steps"
    more = "" if not result.look_steps else f", and {result.look_steps} more for looks before the end"
    lines = [f"Trained on {result.num_train_images} images ({_split(result.trained_on)}): {steps}{more}."]
    if result.floor is None or result.metric is None or result.best is None:
        lines.append(
            "No honest distance can be given: no image is left that the model has not seen. Measure it against other "
            "images of the domain."
        )
        return "\n".join([*lines, _files(result, out)])
    lines.append(f"{result.metric} on the search split (n = {result.num_images}), floor {distance_text(result.floor)}:")
    rows = [("look", "step", "distance", "excess", "")]
    for look in result.looks:
        assert look.distance is not None
        distance, excess = distance_text(look.distance), distance_text(look.distance - result.floor)
        rows.append((_share(look.fraction), str(look.step), distance, excess, "best" if look == result.best else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (text.rjust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  " + "  ".join(cells).rstrip())
    if result.best.classes:
        lines.append("within each class at the best look, kernel distance x 1000 (95% intervals over draws of images):")
        for name, one in result.best.classes.items():
            kernel = interval_text(one.kernel, standard_error=one.standard_error)
            lines.append(f"  {name}: {kernel} ({one.num_reference} real images)")
    behind = len(result.looks) - 1 - result.looks.index(result.best)
    ended = (
        "Ended with all of its compute spent."
        if result.ended == "compute"
        else f"Ended early: {_in_a_row(behind, past=True)} nothing better than step {result.best.step}."
    )
    return "\n".join([*lines, ended, _files(result, out)])


def duration_text(seconds: float) -> str:
    """A duration to about two digits.

    >>> [duration_text(s) for s in (12.3, 432, 9000)]
    ['12 s', '7.2 min', '2.5 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _named(look: LookRecord) -> str:
    assert look.distance is not None
    return f"{distance_text(look.distance)} (step {look.step})"


def _share(fraction: float) -> str:
    return "1" if fraction == 1 else f"1/{round(1 / fraction)}"


def _split(trained_on: str) -> str:
    return "every image" if trained_on == "all" else f"{trained_on} split"


def _in_a_row(count: int, *, past: bool = False) -> str:
    if count == 1:
        return f"a look {'brought' if past else 'brings'}"
    return f"{count} looks in a row {'brought' if past else 'bring'}"


def _files(result: TrainResult, out: Path) -> str:
    best = "" if result.best is None else "best/ (the best look's model, which is sampled from), "
    return (
        f"In {out}: {best}checkpoint.safetensors (to go on from), logs/ (tensorboard --logdir {out / 'logs'}), "
        "policy.json"
    )
