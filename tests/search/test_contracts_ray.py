"""What autopv works around in Ray, shown on Ray's own objects without starting Ray, and how autopv's objects close it.

A test that fails with "trap N is gone" is good news: the workaround it names can go. What only shows while Ray runs is
in `test_contracts_tune.py`, what concerns Optuna in `test_contracts_optuna.py`.
"""

import json
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from contract_cases import Driver, RecordingSearcher, report, trap
from ray import tune
from ray._private.services import canonicalize_bootstrap_address
from ray.air.execution import PlacementGroupResourceManager
from ray.air.execution._internal import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError
from ray.tune import Callback, Stopper
from ray.tune.execution.tune_controller import _get_max_pending_trials
from ray.tune.experiment import Experiment
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher, SearchGenerator

from autopv.search.budget import Budget
from autopv.search.study import SearchStudy
from autopv.search.tune_adapters import BudgetStopper, HookCallback, RungScheduler, SourceSearcher
from autopv.search.work import Look, Outcome

TWO_TRIALS = Budget(trials=2)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path / "run")


def test_a_worker_that_ray_kills_for_memory_breaks_the_launch() -> None:
    """Trap 1: Ray's memory monitor killing a worker crashes the whole `Tuner.fit()` in spite of `FailureConfig`.

    An OutOfMemoryError is no RayActorError, so the actor manager raises it instead of telling the trial. Closed, in
    test_faults_workers.py: test_an_item_that_always_runs_out_of_memory_fails_with_that_reason_and_the_others_go_on.
    """
    manager = RayActorManager(resource_manager=PlacementGroupResourceManager())
    told: list[Exception] = []
    task = TrackedActorTask(TrackedActor("worker"), on_error=lambda _, error: told.append(error))
    with trap(1, closed_in="autopv/search/tune_adapters.py (any_loss_counts)"):
        with pytest.raises(RuntimeError, match="unexpected exception"):
            manager._actor_task_failed(task, OutOfMemoryError("killed by the memory monitor"))
        assert told == []


def test_rungs_are_rebuilt_from_the_study_when_a_search_is_resumed(driver: Driver) -> None:
    """Trap 2, closed: what was measured before a restart stops a trial after it.

    The trap: test_contracts_tune.py::test_rays_halving_forgets_its_rungs_when_it_is_restored.
    """
    before = driver.study()
    for _ in range(2):
        run_to_the_end(before, distances=(10.0, 8.0))
    resumed = driver.study()
    worse = resumed.propose(flops=1.0)
    assert not resumed.judge(worse, Look(fraction=0.5, distance=99.0, steps=1, flops=0.5))


def test_an_end_of_everything_at_once_leaves_no_trial_running(driver: Driver) -> None:
    """Trap 4, closed: what the searcher is not told when everything stops at once, the hooks do after the launch.

    The trap: test_contracts_tune.py::test_stopping_everything_never_tells_the_searcher.
    """
    study = driver.study()
    hooks = driver.hooks(study, budget=Budget(device_s=100.0))
    stopper = BudgetStopper(hooks, asked_to_stop=lambda: False)
    SourceSearcher(hooks).suggest("t")
    driver.clock.now_s += 101
    hooks.beat()
    assert not stopper.stop_all(), "a worker may be about to report"
    driver.clock.now_s += 10
    hooks.beat()
    assert stopper.stop_all()
    assert not hooks.abandon()
    assert [record.state for record in study.records()] == ["unpaid"]
    assert study.interrupted() == ()


def test_a_searcher_that_had_finished_is_still_finished_when_it_is_restored_with_more_to_do(tmp_path: Path) -> None:
    """Trap 5: a restored experiment with a larger budget runs nothing.

    Closed: test_job.py::test_a_finished_run_is_verified_further_and_searched_further.
    """

    class Budgeted(RecordingSearcher):
        budget = 0

        def suggest(self, trial_id: str) -> Any:
            return {} if self.budget > 0 else Searcher.FINISHED

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def restore(self, checkpoint_path: str) -> None:
            assert Path(checkpoint_path).exists()

    def generator(*, budget: int) -> SearchGenerator:
        searcher = Budgeted()
        searcher.budget = budget
        made = SearchGenerator(searcher)
        made.add_configurations([Experiment("x", run=no_training, num_samples=9, storage_path=str(tmp_path))])
        return made

    spent = generator(budget=0)
    assert spent.next_trial() is None
    assert spent.is_finished()
    spent.save_to_dir(str(tmp_path), session_str="1")
    extended = generator(budget=5)
    assert not extended.is_finished()
    extended.restore_from_dir(str(tmp_path))
    with trap(5, closed_in="autopv/search/executor.py (each launch builds a fresh Tuner)"):
        assert extended.is_finished()


def test_rays_halving_never_stops_a_trial_that_measures_nan() -> None:
    """Trap 7: ASHA never stops a NaN trial."""
    scheduler = AsyncHyperBandScheduler(metric="loss", mode="min", max_t=9, grace_period=1, reduction_factor=3)
    decisions = {}
    for name, loss in (("good", 1.0), ("better", 0.5), ("bad", 9.0), ("nan", math.nan)):
        trial = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(None, trial)
        decisions[name] = scheduler.on_trial_result(None, trial, {"training_iteration": 1, "loss": loss})
    assert decisions["bad"] == TrialScheduler.STOP
    with trap(7, closed_in="autopv/search/hooks.py (Hooks.on_result ends what reports a failure)"):
        assert decisions["nan"] == TrialScheduler.CONTINUE


def test_a_trial_that_measures_nan_is_stopped_and_failed_with_its_reason(driver: Driver) -> None:
    """Trap 7, closed: workers report a loss or a distance that is not finite as a failure, never as a number."""
    study = driver.study()
    hooks = driver.hooks(study, budget=TWO_TRIALS)
    SourceSearcher(hooks).suggest("t")
    trial = SimpleNamespace(trial_id="t")
    reported = report(failure="the loss is not finite")
    assert RungScheduler(hooks).on_trial_result(None, trial, reported) == TrialScheduler.STOP
    HookCallback(hooks).on_trial_complete(1, [trial], trial)
    (record,) = study.records()
    assert (record.state, record.failure) == ("failed", "the loss is not finite")


def test_a_device_is_charged_while_its_worker_starts(driver: Driver) -> None:
    """Trap 9, closed: a device is charged from the moment it is asked for.

    The trap: test_contracts_tune.py::test_rays_total_time_leaves_out_the_start_of_a_worker.
    """
    hooks = driver.hooks(driver.study(), budget=TWO_TRIALS)
    work = json.loads(SourceSearcher(hooks).suggest("t")["item"])
    driver.clock.now_s += 4  # torch is imported
    BudgetStopper(hooks, asked_to_stop=lambda: False)("t", report())
    assert driver.ledger.spent_s(key=work["key"]) == pytest.approx(4)


def test_workers_start_one_after_the_other_unless_their_number_is_given() -> None:
    """Trap 10: set `max_concurrent_trials`, or starts are serial.

    Closed: test_contracts_tune.py::test_workers_start_side_by_side_and_report_without_the_metric.
    """
    assert _get_max_pending_trials(SearchGenerator(ConcurrencyLimiter(RecordingSearcher(), max_concurrent=7))) == 7
    with trap(10, closed_in="autopv/search/executor.py (max_concurrent_trials)"):
        assert _get_max_pending_trials(SearchGenerator(RecordingSearcher())) == 1


class Locked:
    """Holds what cannot be pickled, as an open database cannot."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


class LockedSearcher(Locked, RecordingSearcher):
    pass


class LockedStopper(Locked, Stopper):
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return False


class LockedCallback(Locked, Callback):
    pass


@pytest.mark.parametrize(
    "place",
    [
        lambda: {"tune_config": tune.TuneConfig(search_alg=LockedSearcher())},
        lambda: {"run_config": tune.RunConfig(stop=LockedStopper())},
        lambda: {"run_config": tune.RunConfig(callbacks=[LockedCallback()])},
    ],
    ids=["searcher", "stopper", "callback"],
)
def test_a_tuner_pickles_what_it_is_given(place: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    """Trap 11: Tuner pickles searcher, stopper, callbacks: no live handles in their state."""
    configs = place()
    run_config = configs.setdefault("run_config", tune.RunConfig())
    run_config.name, run_config.storage_path = "pickled", str(tmp_path)
    with trap(11, closed_in="autopv/search/tune_adapters.py (_Stateless)"), pytest.raises(TypeError, match="pickle"):
        tune.Tuner(no_training, **configs)


def test_what_autopv_gives_to_a_tuner_pickles_beside_open_databases(driver: Driver) -> None:
    """Trap 11, closed: autopv's four doors carry no state into a pickle."""
    hooks = driver.hooks(driver.study(), budget=TWO_TRIALS)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(hooks)
    stopper = BudgetStopper(hooks, asked_to_stop=lambda: False)
    for door in (SourceSearcher(hooks), RungScheduler(hooks), stopper, HookCallback(hooks)):
        assert not vars(pickle.loads(pickle.dumps(door)))


def test_ray_trusts_the_address_that_a_dead_cluster_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 12: a stale cluster file makes bare `ray.init()` fail or join a stranger's cluster: `address="local"`.

    Closed: test_contracts_tune.py starts autopv's Ray where Ray has been told of such a cluster.
    """
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray_current_cluster").write_text("192.0.2.1:6379\n", encoding="utf-8")  # nobody's (RFC 5737)
    # What ray.init() connects to; None starts a Ray of its own.
    assert canonicalize_bootstrap_address("local", temp_dir=str(tmp_path)) is None
    with trap(12, closed_in='autopv/search/ray_session.py (address="local")'):
        assert canonicalize_bootstrap_address(None, temp_dir=str(tmp_path)) == "192.0.2.1:6379"


def no_training(config: dict[str, Any]) -> None:
    """What is never run."""


def run_to_the_end(study: SearchStudy, *, distances: tuple[float, float]) -> None:
    """Measures a new trial at both rungs."""
    work = study.propose(flops=1.0)
    for fraction, distance in zip((0.5, 1.0), distances, strict=True):
        look = Look(fraction=fraction, distance=distance, steps=1, flops=fraction)
        study.judge(work, look)
    study.finish(work, Outcome(status="complete", look=look))
