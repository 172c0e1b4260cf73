"""What autopv works around in Ray Tune while it runs, and how a launch of autopv's executor closes it: one local Ray.

A test that fails with "trap N is gone" is good news: the workaround it names can go. What shows without a running Ray
is in `test_contracts_ray.py`.
"""

import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from contract_cases import Driver, ListSource, RecordingSearcher, item, trap
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train._internal.storage import StorageContext
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import TimeoutStopper

from autopv.search.budget import Budget
from autopv.search.events import read_events
from autopv.search.executor import Executor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

START_S = 0.5
# How long a worker waits for another one to start: a machine that is busy takes long to start two.
MEETING_S = 60.0
STRICT_METRICS = "TUNE_DISABLE_STRICT_METRIC_CHECKING"


@dataclass
class Bench:
    driver: Driver
    executor: Executor


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """autopv's own Ray with two workers, started beside the address of a dead cluster (trap 12); all is put back."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    level = logging.getLogger("ray.tune").level
    driver = Driver(tmp_path_factory.mktemp("runs") / "run")
    short = Path(tempfile.mkdtemp(prefix="pv"))  # Ray's sockets lie in it, and their paths must be short
    (short / "ray").mkdir()
    (short / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379\n", encoding="utf-8")
    os.environ["RAY_TMPDIR"] = str(short)
    executor = Executor(
        driver.folder,
        num_workers=2,
        device="cpu",
        ledger=driver.ledger,
        spending=driver.spending(Budget(trials=9)),
        events=driver.events,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            # The executor sets this before Ray is imported; here it has been imported.
            patch.setattr("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)
            with executor:
                yield Bench(driver=driver, executor=executor)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logging.getLogger("ray.tune").setLevel(level)
        shutil.rmtree(short, ignore_errors=True)


@dataclass
class History:
    """What Ray made of three trials that report their x: a good one, a bad one, and one that measures NaN."""

    path: Path
    results: dict[float, dict[str, Any]]
    scheduler: AsyncHyperBandScheduler
    study: optuna.Study
    lags: list[int]


@pytest.fixture(scope="module")
def history(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> History:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path_factory.mktemp("tune")
    points = [{"x": x} for x in (0.1, 0.8, 0.95)]
    search = OptunaSearch({"x": FloatDistribution(0, 1)}, metric="loss", mode="min", points_to_evaluate=points)
    scheduler = AsyncHyperBandScheduler(max_t=4, grace_period=1, reduction_factor=2)
    snapshots = SnapshotReader(path / "history")
    tuner = tune.Tuner(
        constant_trainable(),
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=search,
            scheduler=scheduler,
            num_samples=3,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="history", storage_path=str(path), verbose=0, callbacks=[snapshots]),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TUNE_GLOBAL_CHECKPOINT_S", raising=False)  # Ray's own rhythm, not the executor's
        grid = tuner.fit()
    results = {result.config["x"]: result.metrics for result in grid}
    return History(
        path=path / "history", results=results, scheduler=scheduler, study=search._ot_study, lags=snapshots.lags
    )


@dataclass
class SnapshotReader(tune.Callback):
    """Notes, whenever a trial ends, how many of those that ended before it are not in Ray's snapshot."""

    path: Path
    lags: list[int] = field(default_factory=list)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        num_ended = sum(other.status == Trial.TERMINATED for other in trials)
        num_known = 0
        for snapshot in self.path.glob("experiment_state-*.json"):
            states = [json.loads(state) for state, _ in json.loads(snapshot.read_text(encoding="utf-8"))["trial_data"]]
            num_known = sum(state["status"] == Trial.TERMINATED for state in states)
        self.lags.append(num_ended - num_known)


def constant_trainable() -> type[tune.Trainable]:
    """A class that Ray ships to its workers by value, since they cannot import this file."""

    class Constant(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import time

            time.sleep(START_S)

        def step(self) -> dict[str, Any]:
            return {"loss": self.config["x"] if self.config["x"] < 0.9 else float("nan")}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Nothing."""

    return Constant


def test_a_finished_trial_is_not_in_rays_snapshot_for_a_while(history: History) -> None:
    """Trap 3: Ray's snapshot lags; after kill -9 finished trials were forgotten: do not use `Tuner.restore`.

    Closed: test_job.py::test_stopped_and_killed_a_job_goes_on_without_loss.
    """
    with trap(3, closed_in="autopv/search/executor.py (Ray's snapshots are never read back)"):
        assert max(history.lags) > 0


def test_the_report_at_which_ray_stops_a_trial_never_reaches_the_searcher(history: History) -> None:
    """Trap 6, where it begins: the adapter is told a partial value, and nothing of the report behind it."""
    (stopped,) = [trial for trial in history.study.trials if trial.params["x"] == 0.8]
    assert history.results[0.8]["training_iteration"] == 1
    with trap(6, closed_in="autopv/search/study.py (SearchStudy.judge records each look itself)"):
        assert stopped.state == TrialState.COMPLETE
        assert stopped.value == 0.8
        assert stopped.intermediate_values == {}


def test_rays_halving_trains_a_trial_that_measures_nan_to_its_end(history: History) -> None:
    """Trap 7, in a whole run: a NaN costs as much as the best trial; see test_contracts_ray.py."""
    with trap(7, closed_in="autopv/search/hooks.py (Hooks.on_result ends what reports a failure)"):
        assert history.results[0.95]["training_iteration"] == history.results[0.1]["training_iteration"] == 4


def test_rays_total_time_leaves_out_the_start_of_a_worker(history: History) -> None:
    """Trap 9: `time_total_s` leaves out actor start (the device held).

    Closed: test_contracts_ray.py::test_a_device_is_charged_while_its_worker_starts.
    """
    with trap(9, closed_in="autopv/search/ledger.py (a device is charged from grant to release)"):
        assert history.results[0.1]["time_total_s"] < START_S


def test_rays_halving_forgets_its_rungs_and_runs_nothing_when_it_is_restored(history: History) -> None:
    """Trap 2: ASHA's rungs are lost on `Tuner.restore`; and trap 5, in a whole run, with room for three more trials.

    Closed: test_contracts_ray.py::test_rungs_are_rebuilt_from_the_study_when_a_search_is_resumed.
    """
    assert any(recorded for _, recorded in history.scheduler._brackets[0]._rungs)
    tuner = tune.Tuner.restore(str(history.path), trainable=constant_trainable())
    config = tuner._local_tuner._tune_config
    config.num_samples = 6
    results = tuner.fit()
    with trap(2, closed_in="autopv/search/study.py (the study on disk is the state of the halving)"):
        assert config.scheduler is not history.scheduler
        assert not any(recorded for _, recorded in config.scheduler._brackets[0]._rungs)
    with trap(5, closed_in="autopv/search/executor.py (each launch builds a fresh Tuner)"):
        assert len(results) == 3


@pytest.mark.parametrize("end", ["stop_all", "time_budget_s", "fail_fast"])
def test_stopping_everything_never_tells_the_searcher(bench: Bench, end: str, tmp_path: Path) -> None:
    """Trap 4: `stop_all`, `time_budget_s`, `fail_fast` never tell the searcher: trials stay RUNNING.

    Closed: test_contracts_ray.py::test_an_end_of_everything_at_once_leaves_no_trial_running.
    """
    stopper = {"stop_all": StopAll(), "time_budget_s": TimeoutStopper(0)}.get(end)
    searcher = RecordingSearcher()
    controller, trial = running_trial(searcher, tmp_path, stopper=stopper, fail_fast=end == "fail_fast")
    controller._has_errored = True
    controller._stop_experiment_if_needed()
    assert trial.status == Trial.TERMINATED
    with trap(4, closed_in="autopv/search/hooks.py (Hooks.abandon)"):
        assert searcher.told == []


def test_a_single_stop_does_tell_the_searcher(bench: Bench, tmp_path: Path) -> None:
    """Trap 4, what is right beside it: so BudgetStopper ends items one by one as long as they report."""
    searcher = RecordingSearcher()
    controller, trial = running_trial(searcher, tmp_path)
    controller._scheduler_alg = tune.schedulers.FIFOScheduler()
    controller.stop_trial(trial)
    assert searcher.told == [trial.trial_id]


def test_one_report_without_the_metric_aborts_everything(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 8: one result without the metric aborts everything (`TUNE_DISABLE_STRICT_METRIC_CHECKING=1`).

    Closed: test_workers_start_side_by_side_and_report_without_the_metric.
    """
    controller, trial = running_trial(RecordingSearcher(), tmp_path)
    controller._process_trial_result(trial, {"progress": 0.5, "steps": 3})
    monkeypatch.delenv(STRICT_METRICS)
    with (
        trap(8, closed_in=f"autopv/search/executor.py ({STRICT_METRICS})"),
        pytest.raises(ValueError, match="did not include the specified metric"),
    ):
        controller._process_trial_result(trial, {"progress": 0.5, "steps": 3})


def test_interrupted_ray_returns_as_if_all_were_well(bench: Bench, tmp_path: Path) -> None:
    """Trap 14: SIGINT makes `fit()` return normally with RUNNING trials left.

    Closed: test_job.py::test_stopped_and_killed_a_job_goes_on_without_loss and test_a_stop_between_two_trials_is_heard.
    """

    class Interrupt(tune.Callback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    class Endless(RecordingSearcher):
        def suggest(self, trial_id: str) -> dict[str, Any]:
            return {"x": 0.1}

    searcher = Endless()
    tuner = tune.Tuner(
        constant_trainable(),
        tune_config=tune.TuneConfig(metric="loss", mode="min", search_alg=searcher, num_samples=1),
        run_config=tune.RunConfig(name="interrupted", storage_path=str(tmp_path), verbose=0, callbacks=[Interrupt()]),
    )
    with trap(14, closed_in="autopv/search/executor.py (Executor.run raises KeyboardInterrupt)"):
        try:
            tuner.fit()
        except KeyboardInterrupt:
            pytest.fail("fit() raised KeyboardInterrupt")
        assert searcher.told == []


class StopAll(tune.Stopper):
    """Ends everything at once."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return True


def running_trial(searcher: RecordingSearcher, path: Path, **options: Any) -> tuple[TuneController, Trial]:
    """A controller with one trial that counts as running, though no worker does."""
    storage = StorageContext(storage_path=str(path), experiment_dir_name="controlled")
    controller = TuneController(
        search_alg=SearchGenerator(searcher), storage=storage, metric=searcher.metric, **options
    )
    trial = Trial("pretended", stub=True, storage=storage, _setup_default_resource=False)
    trial.placement_group_factory = tune.PlacementGroupFactory([{"CPU": 1}])
    controller.add_trial(trial)
    controller._set_trial_status(trial, Trial.RUNNING)
    return controller, trial


def pretended_worker() -> type[tune.Trainable]:
    """What runs in a worker in place of training; the item's policy says what to do. Shipped by value."""

    class Pretended(tune.Trainable):
        def setup(self, config: dict[str, Any], *, inputs: str) -> None:
            from pathlib import Path

            self.marks = Path(inputs)
            self.take(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.take(new_config)
            return True

        def take(self, config: dict[str, Any]) -> None:
            import json
            import time

            self.policy = json.loads(config["item"])["policy"]
            self.reports = 0
            if "meets" in self.policy:
                (self.marks / self.policy["name"]).touch()
                deadline_s = time.monotonic() + MEETING_S
                while not (self.marks / self.policy["meets"]).exists() and time.monotonic() < deadline_s:
                    time.sleep(0.02)

        def step(self) -> dict[str, Any]:
            import os
            import signal

            done = dict.fromkeys(("training_s", "evaluation_s", "rendering_s", "startup_s", "flops_done"), 0.0)
            done |= {"fraction": None, "failure": None, "progress": 0.5, "steps": 1, "flops": 1.0}
            self.reports += 1
            if self.reports == 1:
                return done
            if "dies" in self.policy and not (self.marks / "died").exists():
                (self.marks / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            met = "meets" not in self.policy or (self.marks / self.policy["meets"]).exists()
            return {**done, "fraction": 1.0, "distance": 1.0 if met else 99.0}

    return Pretended


def test_workers_start_side_by_side_and_report_without_the_metric(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traps 8, 10, 11 and 12, closed: one launch of the executor, with its open databases, beside a dead cluster."""
    monkeypatch.setattr("autopv.search.trial.Trial", pretended_worker())
    source = ListSource(
        [item("one", policy={"name": "one", "meets": "two"}), item("two", policy={"name": "two", "meets": "one"})]
    )
    bench.executor.run(source, inputs=str(tmp_path))
    looks = {key: outcome.look and outcome.look.distance for key, outcome in source.outcomes.items()}
    assert looks == {"one": 1.0, "two": 1.0}, [outcome.failure for outcome in source.outcomes.values()]


def test_a_worker_killed_for_memory_costs_its_work_and_nothing_else(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 1, closed: the item is run again. The worker is really killed; that Ray did it for memory is pretended."""
    monkeypatch.setattr("autopv.search.trial.Trial", pretended_worker())
    fail = RayActorManager._actor_task_failed

    def killed_for_memory(manager: RayActorManager, *, tracked_actor_task: Any, exception: Exception) -> None:
        error = OutOfMemoryError(str(exception)) if isinstance(exception, RayActorError) else exception
        fail(manager, tracked_actor_task=tracked_actor_task, exception=error)

    monkeypatch.setattr(RayActorManager, "_actor_task_failed", killed_for_memory)
    source = ListSource([item("heavy", policy={"dies": True}), item("light", policy={})])
    bench.executor.run(source, inputs=str(tmp_path))
    assert (tmp_path / "died").exists()
    assert {key: outcome.status for key, outcome in source.outcomes.items()} == {
        "heavy": "complete",
        "light": "complete",
    }
    assert "ray_failed" in {event["event"] for event in read_events(bench.driver.folder.events)}
