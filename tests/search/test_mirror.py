"""A mirrored study is the study on file at every moment, and is not read from it again."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from autopv.search.mirror import MirroredStorage


@pytest.fixture
def file(tmp_path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


def contents(study: optuna.Study) -> list[tuple[object, ...]]:
    """All that a trial says, without ids and times."""

    def said(trial: FrozenTrial) -> tuple[object, ...]:
        attributes = (trial.user_attrs, trial.system_attrs)
        return (trial.number, trial.state, trial.values, trial.params, trial.intermediate_values, *attributes)

    return [said(trial) for trial in study.get_trials()]


def ask(study: optuna.Study) -> optuna.trial.Trial:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("op", ["blur", "noise"])
    return trial


def complete(study: optuna.Study) -> None:
    trial = ask(study)
    trial.report(0.5, 50)
    trial.set_user_attr("seed", 3)
    study.tell(trial, trial.params["x"])


STEPS: dict[str, Callable[[optuna.Study], object]] = {
    "a trial completes": complete,
    "another completes": complete,
    "a trial goes on running": ask,
    "a trial fails": lambda study: study.tell(ask(study), state=TrialState.FAIL),
    "a trial is queued": lambda study: study.enqueue_trial({"x": 0.25}, user_attrs={"control": "blur"}),
    "the queued trial is asked for": ask,
    "the study is given an attribute": lambda study: study.set_user_attr("name", 1),
}


def test_after_every_change_file_and_memory_say_the_same(file: RDBStorage) -> None:
    study = optuna.create_study(storage=MirroredStorage(file), study_name="search")
    for step, change in STEPS.items():
        change(study)
        on_file = optuna.load_study(study_name="search", storage=file)
        assert contents(study) == contents(on_file), step
        assert study.user_attrs == on_file.user_attrs


def test_a_file_with_several_studies_is_taken_over_whole(file: RDBStorage) -> None:
    studies = {name: optuna.create_study(storage=file, study_name=name) for name in ("controls", "search")}
    for change in STEPS.values():
        for study in studies.values():
            change(study)
    mirrored = MirroredStorage(file)
    for name, study in studies.items():
        again = optuna.load_study(study_name=name, storage=mirrored)
        assert contents(again) == contents(study)
        complete(again)
        assert contents(again) == contents(study)
        assert again.best_value == study.best_value


def test_a_deleted_study_is_gone_from_both(file: RDBStorage) -> None:
    mirrored = MirroredStorage(file)
    complete(optuna.create_study(storage=mirrored, study_name="search"))
    optuna.delete_study(study_name="search", storage=mirrored)
    assert mirrored.get_all_studies() == file.get_all_studies() == []


def test_reading_all_trials_reads_nothing_from_the_file(file: RDBStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(storage=MirroredStorage(file), study_name="search")
    ask(study)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the file was read")

    for name in ("get_all_trials", "get_trial", "_get_trials"):
        monkeypatch.setattr(file, name, refuse)
    assert [trial.state for trial in study.get_trials()] == [TrialState.RUNNING]
