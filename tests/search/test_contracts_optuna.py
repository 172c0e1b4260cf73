"""What autopv works around in Optuna and in Ray's adapter to it; a new version that mends it is told by these tests.

A test that fails with "trap N is gone" is good news: the workaround it names can go. The other traps are in
`test_contracts_ray.py`.
"""

from typing import Any

import optuna
import pytest
from contract_cases import trap
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from ray.tune.search.optuna import OptunaSearch

# Optuna warns that the sampler autopv uses has options that may change.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def adapter(space: Any, **options: Any) -> OptunaSearch:
    return OptunaSearch(space=space, metric="loss", mode="min", **options)


def test_rays_adapter_calls_a_stopped_trial_complete_at_its_partial_value() -> None:
    """Trap 6: OptunaSearch tells ASHA-stopped trials COMPLETE at their partial value and never stores the last report.

    Ray tells a searcher no result that a scheduler stops at: see
    test_contracts_tune.py::test_the_report_at_which_ray_stops_a_trial_never_reaches_the_searcher. Closed:
    test_study.py::test_a_policy_that_is_worse_at_its_rung_is_stopped_and_keeps_its_look.
    """
    search = adapter({"x": FloatDistribution(0, 1)})
    search.suggest("stopped")
    search.on_trial_result("stopped", {"loss": 9.0, "training_iteration": 1})
    search.on_trial_complete("stopped", result={"loss": 5.0, "training_iteration": 2})
    (trial,) = search._ot_study.trials
    with trap(6, closed_in="autopv/search/study.py (SearchStudy.judge and finish, in place of OptunaSearch)"):
        assert trial.state == TrialState.COMPLETE
        assert trial.value == 5.0
        assert trial.intermediate_values == {1: 9.0}


def test_rays_adapter_leaves_a_trial_that_measured_nan_running_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """Trap 6, continued: OptunaSearch tells Optuna a NaN, which refuses it, and only logs the refusal.

    Closed: test_study.py::test_a_failed_trial_never_gets_a_distance.
    """
    search = adapter({"x": FloatDistribution(0, 1)})
    search.suggest("nan")
    search.on_trial_complete("nan", result={"loss": float("nan"), "training_iteration": 1})
    (trial,) = search._ot_study.trials
    with trap(6, closed_in="autopv/search/study.py (SearchStudy.finish, in place of OptunaSearch)"):
        assert trial.state == TrialState.RUNNING


def test_tpe_repeats_itself_while_most_of_a_small_space_is_untried() -> None:
    """Trap 13: TPE repeats itself on small spaces: a duplicate policy is a re-evaluation with a new seed.

    Closed: test_study.py::test_a_repeated_policy_gets_a_new_seed.
    """
    space = {name: IntDistribution(1, 6) for name in ("a", "b")}
    num_distinct = {}
    for seed in range(3):
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        )
        proposed = []
        for _ in range(30):
            trial = study.ask(space)
            proposed.append((trial.params["a"], trial.params["b"]))
            study.tell(trial, float((trial.params["a"] - 3) ** 2 + (trial.params["b"] - 3) ** 2))
        num_distinct[seed] = len(set(proposed))
    with trap(13, closed_in="autopv/search/study.py (SearchStudy._repeats: a repeated policy gets a new seed)"):
        assert max(num_distinct.values()) < 30, "30 of the 36 policies could have been tried"


def layers(trial: Any) -> None:
    """A space whose parameters depend on one another, as every space of policies does."""
    if trial.suggest_int("num_layers", 1, 2) == 2:
        trial.suggest_float("second", 0, 1)


SCORED = {"num_layers": 1}


def test_rays_adapter_refuses_scored_warm_starts_for_a_space_that_is_a_function() -> None:
    """Trap 15: scored warm starts are refused for define-by-run in OptunaSearch (`study.add_trial` works).

    Closed: no warm start is needed, since every process works on the one study in the run folder;
    test_study.py::test_equal_seeds_propose_equal_policies_also_across_a_restart.
    """
    with (
        trap(15, closed_in="autopv/search/study.py (ask and tell, in place of OptunaSearch)"),
        pytest.raises(TypeError, match="not yet supported"),
    ):
        adapter(layers, points_to_evaluate=[SCORED], evaluated_rewards=[1.0])


def test_optuna_itself_takes_scored_warm_starts_for_such_a_space() -> None:
    """Trap 15, the way round it: what was scored in an earlier process counts, though it has other parameters."""
    study = optuna.create_study()
    study.add_trial(create_trial(params=SCORED, distributions={"num_layers": IntDistribution(1, 2)}, value=1.0))
    trial = study.ask()
    layers(trial)
    study.tell(trial, 2.0)
    assert [t.value for t in study.get_trials(states=(TrialState.COMPLETE,))] == [1.0, 2.0]
