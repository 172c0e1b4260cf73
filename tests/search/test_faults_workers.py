"""A worker that hangs, freezes, runs out of memory or of disk: the item's end is defined, everybody else goes on."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from faulty import VICTIM, Bench, Items, hog_memory, in_training, sleep_for_ever, stop_self, travels

from autopv.errors import AutopvError, StorageError
from autopv.search import executor as executor_module
from autopv.search import hooks as hooks_module
from autopv.search import ray_session, watchdog
from autopv.search.budget import Budget
from autopv.search.events import read_events
from autopv.search.executor import Executor
from autopv.search.hooks import Held, Hooks
from autopv.search.losses import Losses
from autopv.search.spending import Speed
from autopv.training import checkpoint_file
from autopv.training.trainer import Trainer

# Long enough for a step and a measurement on a busy machine.
SILENCE_S = 15.0


travels(__name__)


@pytest.fixture
def bench(tmp_path: Path, image_file: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "run", image_file=image_file)
    yield made
    made.ledger.close()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    """Where faults leave a mark each time that they happen."""
    path = tmp_path / "marks"
    path.mkdir()
    return path


def test_the_limit_for_silence_is_generous_and_follows_the_machine() -> None:
    assert watchdog.silence_limit_s(Speed(s_per_flop=0, look_s=0.5, start_s=0.5)) == watchdog.LEAST_SILENCE_S
    assert watchdog.silence_limit_s(Speed(s_per_flop=0, look_s=60, start_s=1)) >= 1200


def test_losses_are_counted_across_drivers_and_forgiven_once_the_training_got_on(bench: Bench) -> None:
    assert [Losses(bench.ledger).record("a", progress=0.2) for _ in range(2)] == [1, 2]
    assert Losses(bench.ledger).record("a", progress=0.15) == 3, "rework loses it again a little earlier"
    assert Losses(bench.ledger).record("a", progress=0.4) == 1
    assert Losses(bench.ledger).record("b", progress=0.4) == 1


@pytest.mark.slow
def test_a_training_that_hangs_each_time_fails_and_tells_where_and_the_others_go_on(
    bench: Bench, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "LEAST_SILENCE_S", SILENCE_S)
    monkeypatch.setattr(hooks_module, "MOST_LOSSES", 1)
    source = Items([1, VICTIM, 2])
    with bench.executor() as executor:
        executor.run(source, inputs=bench.inputs(in_training(sleep_for_ever, times=9, marks=marks)))
    assert [source.outcomes[seed].status for seed in (1, 2)] == ["complete"] * 2
    assert source.outcomes[VICTIM].status == "failed"
    assert "hung: no report for 15 s" in str(source.outcomes[VICTIM].failure)
    assert len(list(marks.iterdir())) == 2, "it had a second chance"
    trace = (bench.folder.item("search-0666") / watchdog.TRACE_FILE).read_text()
    assert "sleep_for_ever" in trace


@pytest.mark.slow
def test_a_frozen_worker_is_ended_by_the_driver(bench: Bench, marks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process cannot end itself: its watchdog is stopped with it."""
    monkeypatch.setattr(watchdog, "LEAST_SILENCE_S", SILENCE_S)
    monkeypatch.setattr(hooks_module, "DRIVER_GRACE_S", 5.0)
    source = Items([1, VICTIM])
    with bench.executor() as executor:
        executor.run(source, inputs=bench.inputs(in_training(stop_self, times=1, marks=marks)))
    assert {outcome.status for outcome in source.outcomes.values()} == {"complete"}
    (reason,) = bench.reasons()
    assert "hung" in reason


@pytest.mark.slow
def test_an_item_that_always_runs_out_of_memory_fails_with_that_reason_and_the_others_go_on(
    bench: Bench, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own memory monitor does it, with a threshold somewhat above what is in use now."""
    numbers = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    free_kb, total_kb = numbers["MemAvailable"], numbers["MemTotal"]
    if free_kb < 8 * 2**20:
        pytest.skip("less than 8 GB are free")
    # Ray and a healthy worker take about one gigabyte; what other tests take meanwhile counts too, and must not
    # bring the monitor upon a healthy worker.
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{1 - (free_kb - 4 * 2**20) / total_kb:.4f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    monkeypatch.setattr(hooks_module, "MOST_LOSSES", 1)
    source = Items([1, VICTIM, 2])
    with bench.executor() as executor:
        executor.run(source, inputs=bench.inputs(in_training(hog_memory, times=9, marks=marks)))
    assert [source.outcomes[seed].status for seed in (1, 2)] == ["complete"] * 2
    assert source.outcomes[VICTIM].status == "failed"
    assert "out of memory" in str(source.outcomes[VICTIM].failure)
    assert not any(event["event"] == "ray_failed" for event in read_events(bench.folder.events))


@pytest.mark.slow
def test_workers_still_starting_when_the_budget_is_spent_are_not_waited_for(tmp_path: Path, image_file: Path) -> None:
    """They hear nothing yet; Ray by itself would wait for them, minutes long, at the budget's cost."""
    device_s = 4.0
    bench = Bench(tmp_path / "run", image_file=image_file, budget=Budget(device="cpu", device_s=device_s))
    source = Items([1, 2])
    with bench.executor(num_workers=2) as executor:
        executor.run(source, inputs=bench.inputs(sleep_for_ever))
    assert {outcome.status for outcome in source.outcomes.values()} == {"unpaid"}
    assert bench.reasons() == [], "a worker that was killed for the budget is not a lost one"
    # Until the budget is found spent, and then three seconds each.
    assert device_s <= bench.ledger.spent_s() < device_s + 12
    bench.ledger.close()


def full_disk() -> None:
    """Checkpoints meet a limit to the size of files; Ray, in the same process, does not."""
    save_file = checkpoint_file.save_file

    def limited(*arguments: object, **named: object) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            save_file(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    checkpoint_file.save_file = limited


def no_device_memory() -> None:
    def step(self: Trainer, learning_rate: float) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore of it.")

    Trainer._step = step  # type: ignore[method-assign, assignment]


@pytest.mark.slow
def test_a_worker_without_disk_stops_the_job_and_its_item_goes_on_later(bench: Bench) -> None:
    source = Items([1, 2])
    with bench.executor() as executor:
        with pytest.raises(StorageError, match=r"checkpoint\.safetensors could not be written") as caught:
            executor.run(source, inputs=bench.inputs(full_disk))
        assert f"autopv resume {bench.folder.path}" in str(caught.value)
        assert "are free there" in str(caught.value)
        assert source.outcomes == {}, "nothing failed for it"
        executor.run(source, inputs=bench.inputs())
        assert {outcome.status for outcome in source.outcomes.values()} == {"complete"}
        starved = Items([3, 4])
        executor.run(starved, inputs=bench.inputs(no_device_memory))
    assert {outcome.status for outcome in starved.outcomes.values()} == {"failed"}
    assert "device's memory" in str(starved.outcomes[3].failure)
    assert bench.reasons() == [], "no worker was lost"


class Breakdowns:
    """In place of a launch of Ray: breaks down each time, after progress or without."""

    def __init__(self, progress: list[bool]) -> None:
        self.progress = progress
        self.num_launches = 0

    def __call__(self, hooks: Hooks, *, inputs: object, breakdown: Held) -> None:
        self.num_launches += 1
        with breakdown:
            hooks.made_progress = self.progress.pop(0)
            raise RuntimeError("raylet died")


def test_breakdowns_of_ray_count_only_in_a_row_without_progress(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session.RaySession, "restart", lambda _: None)
    executor: Executor = bench.executor()
    launch = Breakdowns([True, False, False, True, False, False, False, False])
    monkeypatch.setattr(executor, "_launch", launch)
    with pytest.raises(AutopvError, match=f"broke down {executor_module._MOST_BREAKDOWNS + 1} times in a row"):
        executor.run(Items([1]), inputs=None)
    assert launch.num_launches == 7
