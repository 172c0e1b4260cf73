"""What autopv works around in Ray Tune while it runs, and how a launch of autopv's executor closes it: one local Ray.

A test that fails with "trap N is gone" is good news: the workaround it names can go. What shows without a running Ray
is in `test_contracts_ray.py`.
"""

import json
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from contract_cases import Driver, RecordingSearcher, report, trap
from faulty import Items, travels
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from ray import tune
from ray._private import ray_constants, worker
from ray._raylet import METRICS_AGENT_PORT_NAME
from ray.train._internal.storage import StorageContext
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.tune.stopper import TimeoutStopper

from autopv.search.budget import Budget
from autopv.search.executor import Executor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

START_S = 0.5
# How long a worker waits for another one to start: a machine that is busy takes long to start two.
MEETING_S = 60.0
STRICT_METRICS = "TUNE_DISABLE_STRICT_METRIC_CHECKING"
SIGINT_HANDLER = "TUNE_DISABLE_SIGINT_HANDLER"


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    """autopv's own Ray with two workers, where Ray has been told of another cluster (trap 12); all is put back."""
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    levels = {name: logging.getLogger(name).level for name in ("ray", "ray.tune")}
    os.environ["RAY_ADDRESS"] = "192.0.2.1:6379"  # nobody's (RFC 5737)
    driver = Driver(tmp_path_factory.mktemp("runs") / "run")
    made = Executor(
        driver.folder,
        num_workers=2,
        device="cpu",
        ledger=driver.ledger,
        spending=driver.spending(Budget(trials=9)),
        events=driver.events,
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            # autopv sets this before it imports Ray; here Ray has been imported.
            patch.setattr("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)
            with made:
                yield made
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@dataclass
class History:
    """What Ray made of three trials that report their x: a good one, a bad one, and one that measures NaN."""

    path: Path
    results: dict[float, dict[str, Any]]
    scheduler: AsyncHyperBandScheduler
    study: optuna.Study
    lags: list[int]


@pytest.fixture(scope="module")
def history(executor: Executor, tmp_path_factory: pytest.TempPathFactory) -> History:
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

    Closed: test_interrupted_jobs.py::test_stopped_and_killed_a_job_goes_on_without_loss.
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
def test_stopping_everything_never_tells_the_searcher(executor: Executor, end: str, tmp_path: Path) -> None:
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


def test_a_single_stop_does_tell_the_searcher(executor: Executor, tmp_path: Path) -> None:
    """Trap 4, what is right beside it: so BudgetStopper ends items one by one as long as they report."""
    searcher = RecordingSearcher()
    controller, trial = running_trial(searcher, tmp_path)
    controller.stop_trial(trial)
    assert searcher.told == [trial.trial_id]


def test_one_report_without_the_metric_aborts_everything(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 8: one result without the metric aborts everything (`TUNE_DISABLE_STRICT_METRIC_CHECKING=1`).

    Closed: test_workers_start_side_by_side_and_report_without_the_metric.
    """
    controller, trial = running_trial(RecordingSearcher(), tmp_path)
    controller._process_trial_result(trial, {"progress": 0.5, "steps": 3})
    monkeypatch.delenv(STRICT_METRICS, raising=False)
    with (
        trap(8, closed_in=f"autopv/search/ray_session.py ({STRICT_METRICS})"),
        pytest.raises(ValueError, match="did not include the specified metric"),
    ):
        controller._process_trial_result(trial, {"progress": 0.5, "steps": 3})


def test_interrupted_ray_returns_as_if_all_were_well(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 14: SIGINT makes `fit()` return normally with RUNNING trials left.

    Closed: test_interrupted_jobs.py::test_stopped_and_killed_a_job_goes_on_without_loss and
    test_a_stop_between_two_trials_is_heard,
    test_faults_signals.py::test_every_kind_of_end_saves_what_it_can_and_leaves_nothing_behind.
    """
    monkeypatch.delenv(SIGINT_HANDLER, raising=False)  # Ray's own behaviour, not the one autopv asks for

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
    with trap(14, closed_in=f"autopv/search/ray_session.py ({SIGINT_HANDLER})"):
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
    """What runs in a worker in place of training: it starts only beside a second one. Shipped by value, too."""

    class Pretended(tune.Trainable):
        def setup(self, config: dict[str, Any], *, inputs: str, silence_s: float) -> None:
            from pathlib import Path

            self.marks = Path(inputs)
            self.take(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.take(new_config)
            return True

        def take(self, config: dict[str, Any]) -> None:
            import json
            import time

            self.num_reports = 0
            (self.marks / str(json.loads(config["item"])["seed"])).touch()
            deadline_s = time.monotonic() + MEETING_S
            while len(list(self.marks.iterdir())) < 2 and time.monotonic() < deadline_s:
                time.sleep(0.02)
            self.num_met = len(list(self.marks.iterdir()))

        def step(self) -> dict[str, Any]:
            self.num_reports += 1
            progress = report()
            return progress if self.num_reports == 1 else {**progress, "fraction": 1.0, "distance": self.num_met}

    return Pretended


def test_workers_start_side_by_side_and_report_without_the_metric(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traps 8, 10, 11 and 12, closed: one launch of the executor, with its open databases, beside a dead cluster."""
    monkeypatch.setattr("autopv.search.trial.Trial", pretended_worker())
    travels("contract_cases")
    source = Items([1, 2])
    executor.run(source, inputs=str(tmp_path))
    num_met = {seed: outcome.look and outcome.look.distance for seed, outcome in source.outcomes.items()}
    assert num_met == {1: 2, 2: 2}, [outcome.failure for outcome in source.outcomes.values()]


def test_ray_starts_without_the_helpers_that_nothing_here_uses(executor: Executor) -> None:
    """`ray_session._few_helpers` takes the place of names that are not public: that it still does something."""
    node = worker._global_node
    started = {kind for kind, _ in node.live_processes()}
    assert {ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET} <= started
    assert not started & {ray_constants.PROCESS_TYPE_MONITOR, ray_constants.PROCESS_TYPE_LOG_MONITOR}
    ports = Path(node.get_session_dir_path()).glob(f"*{METRICS_AGENT_PORT_NAME}*")
    assert [path.read_text() for path in ports] == ["-1"], "it would have been waited for"
