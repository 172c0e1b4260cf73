"""What a full training tells: a line rewritten in place on a terminal, plain lines elsewhere, and a true summary."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest

from autopv.metrics.classes import ClassKernel
from autopv.report import training_lines
from autopv.report.training_lines import TrainingLines, beginning_lines, progress_line, training_text
from autopv.training.course import Course, LookRecord
from autopv.training.full_request import TrainResult
from autopv.training.listener import Beginning, FullProgress
from autopv.training.trainer import TrainingProgress

FIRST = LookRecord(fraction=0.25, step=100, steps_done=100, distance=520.0)
SECOND = LookRecord(fraction=0.5, step=200, steps_done=230, distance=480.0)
LAST = LookRecord(fraction=1.0, step=400, steps_done=490, distance=500.0)
COURSE = Course(
    data="parts",
    group_by=None,
    trained_on="train",
    num_looks=3,
    fractions=(0.25, 0.5, 1.0),
    patience=2,
    metric={"name": "fd_lite0", "num_images": 512},
    floor=168.9,
    log_folder="logs",
)
RESULT = TrainResult(
    metric="fd_lite0",
    num_images=512,
    floor=168.9,
    looks=(FIRST, SECOND, LAST),
    best=SECOND,
    ended="compute",
    trained_on="train",
    num_train_images=1600,
    steps=400,
    total_steps=400,
    look_steps=90,
    took_s=61.0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(step: int, *, look_fraction: float | None = None, best: LookRecord | None = None) -> FullProgress:
    training = TrainingProgress(
        position=step,
        total_steps=400,
        steps_done=step,
        flops_spent=1e9,
        learning_rate=1e-3,
        total_loss=-1.23456,
        terms={},
        look_fraction=look_fraction,
    )
    return FullProgress(
        training=training,
        steps_ahead=490 - step,
        looks_ahead=2,
        seconds_ahead=432.0,
        steps_per_s=12.34,
        images_per_s=395.0,
        best=best,
    )


def test_the_line_tells_step_loss_speed_time_left_and_the_best_distance() -> None:
    assert progress_line(progress(40)) == "step 40/400  loss -1.235  12.3 steps/s  7.2 min left"
    line = progress_line(progress(180, look_fraction=0.5, best=FIRST))
    assert line.startswith("step 180/400 (look at 200)  loss")
    assert line.endswith("best 520.0")
    assert len(line) < 80
    assert "look" not in progress_line(progress(380, look_fraction=1.0))


def test_on_a_terminal_one_line_is_rewritten_and_what_happened_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_lines.shutil, "get_terminal_size", lambda: os.terminal_size((30, 20)))
    terminal = Terminal()
    with TrainingLines(stream=terminal) as lines:
        lines.progress(progress(40))
        lines.progress(progress(60))
        lines.looked(FIRST, course=COURSE.after(FIRST))
        lines.progress(progress(110, best=FIRST))
    written = terminal.getvalue()
    assert written.count("\n") == 2, "the look's line, and the end"
    assert written.endswith("\n")
    shown = [piece.split("\n")[0] for piece in written.split("\r\x1b[K")[1:]]
    assert [piece[:11] for piece in shown] == ["step 40/400", "step 60/400", "look at ste", "step 110/40"]
    assert all(len(shown[i]) < 30 for i in (0, 1, 3)), "a longer line would wrap and not be rewritten"


def test_elsewhere_there_are_plain_lines_now_and_then() -> None:
    stream = io.StringIO()
    with TrainingLines(stream=stream) as lines:
        for step in (40, 60, 80):
            lines.progress(progress(step))
        lines.note("Going on.")
    assert stream.getvalue() == "step 40/400  loss -1.235  12.3 steps/s  7.2 min left\nGoing on.\n"


def test_a_look_is_told_beside_the_best_so_far() -> None:
    stream = io.StringIO()
    lines = TrainingLines(stream=stream)
    lines.looked(FIRST, course=COURSE.after(FIRST))
    lines.looked(LAST, course=COURSE.after(SECOND).after(LAST))
    assert stream.getvalue().splitlines() == [
        "look at step 100: distance 520.0; the best so far",
        "look at step 400: distance 500.0; best so far 480.0 (step 200)",
    ]


def test_the_beginning_says_where_it_is_measured_and_what_that_costs() -> None:
    beginning = Beginning(
        policy="image-only", num_images=1600, position=0, total_steps=400, look_steps=90, course=COURSE
    )
    text = "\n".join(beginning_lines(beginning))
    assert "image-only on the train split's 1600 images: 400 steps" in text
    assert "fd_lite0 (n = 512, floor 168.9) at step 100, 200, 400" in text
    assert "90 steps more (22% of the training)" in text
    assert "2 looks in a row bring nothing better" in text
    assert "class" not in text
    by_class = replace(beginning, classes={"crack": 36, "good": 80, ".": 4})
    assert "by class: crack (36), good (80); 4 images of no known class" in beginning_lines(by_class)
    going_on = "\n".join(beginning_lines(replace(beginning, position=57, course=replace(COURSE, patience=0))))
    assert "going on from step 57" in going_on
    assert "early" not in going_on


def test_a_finished_training_is_not_promised_anything() -> None:
    course = COURSE.after(FIRST).after(SECOND).after(LAST)
    beginning = Beginning(policy="x", num_images=1600, position=400, total_steps=400, look_steps=0, course=course)
    lines = beginning_lines(beginning)
    assert lines[-1] == "nothing is left to train"
    assert not any("early" in line or "cost" in line for line in lines)


def test_without_a_measure_that_is_said_plainly() -> None:
    course = replace(COURSE, trained_on="all", metric=None, floor=None, fractions=(1.0,))
    beginning = Beginning(policy="x", num_images=2624, position=0, total_steps=400, look_steps=0, course=course)
    assert "not measured and not stopped early" in "\n".join(beginning_lines(beginning))
    unmeasured = replace(LAST, distance=None)
    result = replace(
        RESULT, trained_on="all", metric=None, floor=None, num_images=None, best=None, looks=(unmeasured,), look_steps=0
    )
    text = training_text(result, out=Path("model"))
    assert "No honest distance can be given" in text
    assert "best" not in text


def test_the_summary_shows_every_look_and_why_it_ended() -> None:
    lines = training_text(RESULT, out=Path("model")).splitlines()
    assert lines[0] == "Trained on 1600 images (train split): 400 of 400 steps, and 90 more for looks before the end."
    assert "floor 168.9" in lines[1]
    assert [line.split() for line in lines[2:6]] == [
        ["look", "step", "distance", "excess"],
        ["1/4", "100", "520.0", "351.1"],
        ["1/2", "200", "480.0", "311.1", "best"],
        ["1", "400", "500.0", "331.1"],
    ]
    assert lines[6] == "Ended with all of its compute spent."
    assert "tensorboard --logdir model/logs" in lines[7]
    kernel = ClassKernel(kernel=12.34, standard_error=5.67, num_reference=30, num_generated=60)
    by_class = replace(RESULT, best=replace(SECOND, classes={"crack": kernel}))
    by_class = replace(by_class, looks=(FIRST, by_class.best, LAST))
    assert "  crack: 12.3 ± 11.1 (30 real images)" in training_text(by_class, out=Path("model")).splitlines()
    early = training_text(replace(RESULT, ended="patience"), out=Path("model"))
    assert "Ended early: a look brought nothing better than step 200." in early
