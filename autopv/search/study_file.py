"""The file that a study lives in: opened for the search, and read by everything that looks at it."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna

from autopv.errors import RunFolderError
from autopv.search.records import TrialRecord, num_rejected, trial_records

STUDIES = ("controls", "search")


def open_study_file(path: Path) -> optuna.storages.RDBStorage:
    """SQLite in write-ahead mode: ten times as fast as the default, and safe when the process is killed."""
    from sqlalchemy import event
    from sqlalchemy.exc import SQLAlchemyError

    def set_pragma(connection: Any, _: object) -> None:
        connection.execute("pragma synchronous=normal")

    try:
        with sqlite3.connect(path) as connection:
            connection.execute("pragma journal_mode=wal")
        connection.close()
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": 60}})
    except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise RunFolderError(f"The study {path} cannot be opened: {error}.") from error
    event.listen(storage.engine, "connect", set_pragma)
    storage.engine.dispose()
    return storage


def read_records(path: Path) -> tuple[TrialRecord, ...]:
    """Every trial of a study file that was started, without changing it; empty if there is no study yet."""
    return read_study(path)[0]


def read_study(path: Path) -> tuple[tuple[TrialRecord, ...], int]:
    """The same, and how many proposals the screen kept from being tried."""
    studies = _studies(path)
    return trial_records(studies), num_rejected(studies)


def _studies(path: Path) -> dict[str, optuna.Study]:
    if not path.exists():
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_study_file(path)
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    return {name: optuna.load_study(study_name=name, storage=storage) for name in STUDIES if name in names}
