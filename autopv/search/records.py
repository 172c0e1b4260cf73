"""What became of the trials of a study, as plain records."""

from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from autopv.policy import Policy

STATES = ("complete", "stopped", "unpaid", "failed", "running")
"""Of a trial: unpaid ended for want of budget, and more of it can revive it."""
PERCENT = 100
"""Rungs are reported to Optuna in percent of a trial's compute."""
NOT_WAITING = tuple(state for state in TrialState if state != TrialState.WAITING)


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as the study knows it.

    label: what to call it in front of people. control: the name of a control; None for any other policy.
    repeats: the key of the trial whose policy it ran once more, on another seed; None for the first run.
    state: one of STATES. looks: share of compute -> distance.
    """

    key: str
    label: str
    control: str | None
    repeats: str | None
    policy: Policy
    state: str
    seed: int
    distance: float | None
    looks: Mapping[float, float]
    failure: str | None


def trial_key(study: str, number: int) -> str:
    """What a trial is called: the name of its study, and its number there."""
    return f"{study}-{number:04d}"


def split_key(key: str) -> tuple[str, int]:
    """The study and the number of a trial, from what it is called."""
    study, number = key.rsplit("-", 1)
    return study, int(number)


def num_rejected(studies: Mapping[str, optuna.Study]) -> int:
    """Proposals of these studies that the screen kept from being tried."""
    return sum(
        "rejected" in trial.user_attrs
        for study in studies.values()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    )


def trial_records(studies: Mapping[str, optuna.Study]) -> tuple[TrialRecord, ...]:
    """Every trial of these studies that was started; one that another continues is not listed."""
    states = {
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "stopped",
        TrialState.FAIL: "failed",
    }
    continued = continued_keys(studies, states=NOT_WAITING)
    return tuple(
        TrialRecord(
            key=trial_key(name, trial.number),
            label=trial_label(trial.user_attrs, key=trial_key(name, trial.number)),
            control=trial.user_attrs.get("control"),
            repeats=trial.user_attrs.get("repeats"),
            policy=Policy.from_dict(trial.user_attrs["policy"], where=f"study.db {name} {trial.number}"),
            state="unpaid" if trial.user_attrs.get("unpaid") else states[trial.state],
            seed=trial.user_attrs["seed"],
            distance=trial.value if trial.state == TrialState.COMPLETE else None,
            looks={step / PERCENT: value for step, value in trial.intermediate_values.items()},
            failure=trial.user_attrs.get("failure"),
        )
        for name, study in studies.items()
        for trial in study.get_trials(deepcopy=False, states=NOT_WAITING)
        if "seed" in trial.user_attrs and trial_key(name, trial.number) not in continued
    )


def trial_label(attributes: Mapping[str, object], *, key: str) -> str:
    """What to call a trial: by the control or the given policy it runs, else by its key."""
    return str(attributes.get("control") or attributes.get("given") or key)


def continued_keys(
    studies: Mapping[str, optuna.Study], *, states: tuple[TrialState, ...] | None = None
) -> frozenset[str]:
    """The keys of trials that another one (in these states) continues."""
    return frozenset(
        trial.user_attrs["continues"]
        for study in studies.values()
        for trial in study.get_trials(deepcopy=False, states=states)
        if "continues" in trial.user_attrs
    )
