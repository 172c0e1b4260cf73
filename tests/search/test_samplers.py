"""Every sampler proposes from the whole space, repeats itself after an interruption, and learns (but for random)."""

import statistics
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autopv.cli.parser import make_parser
from autopv.errors import InputError
from autopv.search.samplers import SAMPLERS, Samplers, _from_unit, _last, _num_bins, _to_unit, standings
from autopv.search.study import SearchStudy
from autopv.search.work import Look, Outcome
from autopv.spaces import Space
from autopv.verify.controls import default_controls

SPACE = Space.load("stage2_expressive")
DISTRIBUTIONS = [
    CategoricalDistribution(("a", "b", "c")),
    IntDistribution(2, 8),
    IntDistribution(0, 40),
    FloatDistribution(0.0, 1.0),
    FloatDistribution(0.003, 1.0, log=True),
    FloatDistribution(0.5, 0.5),
]


def search(path: Path, sampler: str, *, num_trials: int, reopen: bool = False, seed: int = 0) -> list[str]:
    """Policies in the order in which they were proposed; what they measure depends on them alone."""

    def open_study() -> SearchStudy:
        return SearchStudy(path, space=SPACE, controls=default_controls(), seed=seed, rungs=(0.5, 1.0), sampler=sampler)

    study, proposed = open_study(), []
    for _ in range(num_trials):
        if reopen:
            study = open_study()
        item = study.propose(flops=1e9)
        proposed.append(str(item.policy))
        distance = float(sum(map(ord, str(item.policy))) % 97)
        if study.judge(item, Look(fraction=0.5, distance=distance + 5, steps=1, flops=1.0)):
            last = Look(fraction=1.0, distance=distance, steps=2, flops=2.0)
            study.judge(item, last)
            study.finish(item, Outcome(status="complete", look=last))
        else:
            study.finish(item, Outcome(status="stopped", look=None))
    return proposed


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_search_proposes_what_it_would_have(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopv.search.samplers._TPE_STARTUP", 10)  # or only random policies would be compared
    through = search(tmp_path / "a.db", sampler, num_trials=18)
    assert search(tmp_path / "b.db", sampler, num_trials=18, reopen=True) == through
    assert len(set(through)) > 12
    assert search(tmp_path / "c.db", sampler, num_trials=18, seed=1) != through


def asked(trial: optuna.Trial) -> float:
    """A conditional problem: one of six kinds is good, at a middle magnitude; half of the time a second layer hurts."""
    kind = trial.suggest_categorical("kind", ["a", "b", "c", "d", "e", "f"])
    magnitude = trial.suggest_float("magnitude", 0.003, 1.0, log=True)
    loss = (0.0 if kind == "c" else 1.0) + abs(magnitude - 0.1) + 0.1 * abs(trial.suggest_int("frames", 2, 8) - 4)
    if trial.suggest_int("layers", 1, 2) == 2:
        loss += 0.5 + trial.suggest_float("second", 0.0, 1.0)
    return loss


def late_losses(sampler: str, *, seed: int) -> float:
    """The mean loss of the last 20 of 80 proposals."""
    study, samplers = optuna.create_study(), Samplers(sampler)
    losses = []
    for number in range(80):
        study.sampler = samplers.build(seed=1000 * seed + number)
        trial = study.ask()
        losses.append(asked(trial))
        study.tell(trial, losses[-1])
    return statistics.fmean(losses[-20:])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["tpe", "evolution", "reinforce"])
def test_proposals_get_better(sampler: str) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    learnt = statistics.fmean(late_losses(sampler, seed=seed) for seed in range(4))
    by_chance = statistics.fmean(late_losses("random", seed=seed) for seed in range(4))
    assert learnt < 0.75 * by_chance


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_every_value_lies_where_it_is_taken_from(distribution: optuna.distributions.BaseDistribution) -> None:
    values = [_from_unit(distribution, i / 1000) for i in range(1000)]
    for value in values:
        assert distribution._contains(distribution.to_internal_repr(value))
        assert _from_unit(distribution, _to_unit(distribution, value)) == pytest.approx(value)
    assert _from_unit(distribution, -0.1) == values[0]
    assert _from_unit(distribution, 1.1) == pytest.approx(_from_unit(distribution, 1.0))
    bins = {min(int(_to_unit(distribution, value) * _num_bins(distribution)), 9) for value in values}
    assert bins == set(range(_num_bins(distribution)))


def test_standings_rank_complete_trials_before_stopped_ones_and_those_by_how_far_they_got() -> None:
    study = optuna.create_study()
    for value, looks in ((5.0, ()), (None, (1.0,)), (3.0, ()), (None, (9.0, 8.0)), (None, ())):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        for step, look in enumerate(looks, start=1):
            trial.report(look, step)
        study.tell(trial, value, state=None if value is not None else optuna.trial.TrialState.PRUNED)
    assert [(trial.number, _last(trial)) for trial in standings(study)] == [
        (2, 3.0),
        (0, 5.0),
        (3, 8.0),
        (1, 1.0),
    ]


def test_the_study_file_keeps_the_order_of_questions(tmp_path: Path) -> None:
    """The controller learns from answers in the order in which they were asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="s")
    names = ["num_frames", "zeta", "alpha", "layer1_op", "layer0_op"]
    trial = study.ask()
    for name in names:
        trial.suggest_float(name, 0, 1)
    study.tell(trial, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert list(again.trials[0].distributions) == names


def test_the_command_line_offers_every_sampler() -> None:
    """It names them itself, since help must not wait for Optuna."""
    command = ["search", "--data", "elpv", "--budget", "1cpu-min", "--sampler"]
    assert [make_parser().parse_args([*command, name]).sampler for name in SAMPLERS] == list(SAMPLERS)


def test_an_unknown_sampler_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown sampler 'reinforced'.*Did you mean 'reinforce'"):
        Samplers("reinforced")
