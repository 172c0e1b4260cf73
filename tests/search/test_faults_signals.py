"""Ctrl-C, twice, SIGTERM and kill -9, on real processes: what was trained is saved, and nothing is left behind."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import Process, left_in

from autopv.search.events import read_events
from autopv.training.checkpoint import FILE_NAME, read_info

pytestmark = pytest.mark.slow

# Longer than any test: the trials are always under way when the signal comes.
LONG = ("--trial-steps", "20000", "--seeds", "1", "--workers", "1", "--budget", "8trials")


class Driver(Process):
    """A search that tells by its events where it stands."""

    def __init__(self, arguments: list[str], *, run: Path, temp_folder: Path) -> None:
        self._run = run
        self._num_events = sum(1 for _ in read_events(run / "events.jsonl"))
        super().__init__(arguments, temp_folder=temp_folder)

    def wait_until_training(self) -> None:
        """Returns once a worker has reported progress to this driver."""
        self.wait_until(lambda: any(e["event"] == "progress" for e in list(self._events())[self._num_events :]))

    def _events(self) -> Iterator[dict[str, object]]:
        return (dict(event) for event in read_events(self._run / "events.jsonl"))


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    """What a test started, ended with it whatever becomes of it."""
    made: list[Driver] = []
    yield made
    for driver in made:
        driver.process.kill()


def test_every_kind_of_end_saves_what_it_can_and_leaves_nothing_behind(
    data: tuple[str, ...], tmp_path: Path, temp_folder: Path, drivers: list[Driver]
) -> None:
    run = tmp_path / "run"
    checkpoint = run / "trials" / "controls-0000" / FILE_NAME

    def started(arguments: list[str]) -> Driver:
        driver = Driver(arguments, run=run, temp_folder=temp_folder)
        drivers.append(driver)
        driver.wait_until_training()
        return driver

    driver = started(["search", *data, "--out", str(run), *LONG])
    told_s = driver.interrupt(signal.SIGINT)
    code, stderr = driver.end()
    assert code == 130, stderr
    assert f"autopv resume {run}" in stderr
    assert "Traceback" not in stderr
    assert checkpoint.stat().st_mtime >= told_s, "what was trained is saved at once"
    steps = read_info(checkpoint.parent).steps_done
    assert steps > 0
    assert driver.running() == {}
    assert left_in(temp_folder) == []

    driver = started(["resume", str(run)])
    driver.interrupt(signal.SIGINT)
    time.sleep(0.2)
    told_s = driver.interrupt(signal.SIGINT)
    code, stderr = driver.end()
    assert time.time() - told_s < 3, "the second Ctrl-C is not kept waiting (on a busy machine: not for long)"
    assert code == 130, stderr
    assert f"autopv resume {run}" in stderr
    assert "Traceback" not in stderr
    assert driver.running() == {}
    assert left_in(temp_folder) == []

    driver = started(["resume", str(run)])
    driver.process.kill()
    driver.end()
    (remains,) = temp_folder.glob("autopv-ray-*")

    driver = started(["resume", str(run)])
    assert not remains.exists(), "the next driver clears up after the one that was killed"
    driver.process.send_signal(signal.SIGTERM)
    code, stderr = driver.end()
    assert code == 143, stderr
    assert f"autopv resume {run}" in stderr
    assert read_info(checkpoint.parent).steps_done >= steps
    assert driver.running() == {}
    assert left_in(temp_folder) == []
