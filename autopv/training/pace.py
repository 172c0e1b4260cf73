"""How fast a full training is, and what is ahead of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from autopv.training.course import Course, end_step, start_step
from autopv.training.listener import FullProgress
from autopv.training.trainer import Trainer, TrainingProgress


class Pace:
    """Steps and seconds of this launch, those of training and of measuring apart."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._steps, self._training_s = 0, 0.0
        self._num_measured, self._measuring_s = 0, 0.0
        self._since_s, self._since_steps = time.monotonic(), trainer.steps_done

    @contextmanager
    def training(self) -> Iterator[None]:
        """What is done within is training."""
        self._since_s, self._since_steps = time.monotonic(), self._trainer.steps_done
        yield
        self._count()

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """What is done within is the measurement of one look."""
        started_s = time.monotonic()
        yield
        self._num_measured += 1
        self._measuring_s += time.monotonic() - started_s

    def report(self, progress: TrainingProgress, *, course: Course) -> FullProgress:
        """The trainer's progress with the pace since the last report, and with what is ahead."""
        steps, took_s = self._count()
        overall = self._steps / max(self._training_s, 1e-9)
        ahead = steps_ahead(self._trainer, course)
        looks = len(course.fractions_ahead)
        each_s = self._measuring_s / self._num_measured if self._num_measured else 0.0
        return FullProgress(
            training=progress,
            steps_ahead=ahead,
            looks_ahead=looks,
            seconds_ahead=ahead / overall + looks * each_s,
            steps_per_s=overall,
            images_per_s=steps * self._trainer.plan.batch_size / max(took_s, 1e-9),
            best=course.best,
        )

    def _count(self) -> tuple[int, float]:
        """Steps and seconds since the last count, added to those before."""
        now_s, now_steps = time.monotonic(), self._trainer.steps_done
        steps, took_s = now_steps - self._since_steps, now_s - self._since_s
        self._since_s, self._since_steps = now_s, now_steps
        self._steps += steps
        self._training_s += took_s
        return steps, took_s


def steps_ahead(trainer: Trainer, course: Course) -> int:
    """Steps to the end of a course that never gives up, the decays of its looks included."""
    trunk, steps = trainer.trunk_position, 0
    for fraction in course.fractions_ahead:
        end = end_step(fraction, total_steps=trainer.total_steps)
        if trainer.look is not None and trainer.look.end_step == end:
            steps += end - trainer.position
            continue
        start = start_step(fraction, total_steps=trainer.total_steps, decay_fraction=trainer.plan.decay_fraction)
        steps += end - trunk
        trunk = start
    return steps


def look_steps_ahead(trainer: Trainer, course: Course) -> int:
    """Of those, the steps in decays that are taken back: all looks' but the last one's, which ends the training."""
    steps = 0
    for fraction in course.fractions_ahead:
        if fraction < 1:
            end = end_step(fraction, total_steps=trainer.total_steps)
            if trainer.look is not None and trainer.look.end_step == end:
                steps += end - trainer.position
            else:
                decay = trainer.plan.decay_fraction
                steps += end - start_step(fraction, total_steps=trainer.total_steps, decay_fraction=decay)
    return steps
