"""The study on disk: which policies were proposed, what they measured, which are stopped. Optuna keeps all of it.

Trials that the search space can express live in the study `search`; controls it cannot express (image-only training has
no parameters, and one trial without parameters would blind a relative sampler) live in the study `controls`.
"""

import hashlib
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autopv.errors import RunFolderError
from autopv.policy import Policy
from autopv.search.mirror import MirroredStorage
from autopv.search.samplers import Samplers
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import Control

STATES = ("complete", "stopped", "unpaid", "failed", "running")
"""Of a trial: unpaid ended for want of budget, and more of it can revive it."""
_STUDIES = ("controls", "search")
# Rungs are reported to Optuna in percent of a trial's compute.
_PERCENT = 100
# Half of the trials go on from each rung: looks are not worth enough (yet) to stop more.
_REDUCTION = 2


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as the study knows it.

    state: one of STATES. looks: share of compute -> distance.
    """

    key: str
    label: str
    control: str | None
    policy: Policy
    state: str
    seed: int
    distance: float | None
    looks: Mapping[float, float]
    failure: str | None


class SearchStudy:
    """Proposes policies and remembers what became of them; deterministic for a seed and the order of events."""

    def __init__(
        self,
        path: Path,
        *,
        space: Space,
        controls: Sequence[Control],
        seed: int,
        rungs: Sequence[float],
        sampler: str = "tpe",
    ) -> None:
        self._space, self._seed, self._rungs = space, seed, tuple(rungs)
        self._samplers = Samplers(sampler)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = MirroredStorage(_open_storage(path))
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=round(self._rungs[0] * _PERCENT), reduction_factor=_REDUCTION
        )
        self._studies = {
            name: optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True, pruner=pruner
            )
            for name in _STUDIES
        }
        self._live: dict[str, optuna.trial.Trial] = {}
        self._enqueue(controls)

    @property
    def num_rungs(self) -> int:
        """How often a trial that is not stopped is measured."""
        return len(self._rungs)

    @property
    def num_trials(self) -> int:
        """Trials that were started, in whatever state they are now; one that another trial continues is not counted."""
        num_started = sum(len(self._trials(name, states=_not_waiting())) for name in _STUDIES)
        return num_started - len(_continued(self._studies, states=_not_waiting()))

    def interrupted(self) -> tuple[str, ...]:
        """Keys of trials that were started and did not finish, and are not being worked on now."""
        return tuple(
            key
            for name in _STUDIES
            for trial in self._trials(name, states=(TrialState.RUNNING,))
            if (key := _key(name, trial.number)) not in self._live
        )

    def release_live(self) -> None:
        """Counts every trial being worked on as interrupted."""
        self._live.clear()

    def propose(self, *, flops: float, resume: str | None = None) -> WorkItem:
        """The next trial to run: the interrupted one named, else a control that still waits, else a new policy."""
        if resume is not None:
            name, number = resume.rsplit("-", 1)
            study = self._studies[name]
            trial = optuna.trial.Trial(study, self._frozen(name, int(number))._trial_id)
        else:
            waiting = next((n for n in _STUDIES if self._trials(n, states=(TrialState.WAITING,))), "search")
            name, study = waiting, self._studies[waiting]
            study.sampler = self._sampler()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                trial = study.ask()
        attributes = trial.user_attrs
        if "policy" in attributes:
            policy = Policy.from_dict(attributes["policy"], where=f"study.db {name} {trial.number}")
        else:
            policy = self._space.suggest(trial)
            trial.set_user_attr("policy", policy.to_dict())
        if "seed" not in attributes:
            trial.set_user_attr("digest", policy.digest)
            trial.set_user_attr(
                "seed", trial_seed(self._seed, repeat=self._repeats(policy.digest, but=(name, trial.number)))
            )
        key = _key(name, trial.number)
        self._live[key] = trial
        return WorkItem(
            key=key,
            label=self._label(name, trial),
            policy=policy.to_dict(),
            seed=trial.user_attrs["seed"],
            rungs=self._rungs,
            split="search",
            flops=flops,
            continues=trial.user_attrs.get("continues"),
        )

    def judge(self, item: WorkItem, look: Look) -> bool:
        """Records a look; returns whether the trial goes on. Controls always do."""
        trial = self._live[item.key]
        name, number = item.key.rsplit("-", 1)
        step = round(look.fraction * _PERCENT)
        decision = f"goes_on_from_{step}"
        if decision not in trial.user_attrs:  # else a look replayed after an interruption: what was decided stands
            if step not in self._frozen(name, int(number)).intermediate_values:
                trial.report(look.distance, step)
            last = look.fraction >= self._rungs[-1]
            stop = not last and trial.should_prune()
            trial.set_user_attr(decision, not last and (not stop or "control" in trial.user_attrs))
        return bool(trial.user_attrs[decision])

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        """Records how a trial ended."""
        trial = self._live.pop(item.key)
        study = self._studies[item.key.rsplit("-", 1)[0]]
        if outcome.look is not None:
            trial.set_user_attr("steps", outcome.look.steps)
            trial.set_user_attr("flops", outcome.look.flops)
        if outcome.status == "complete":
            assert outcome.look is not None
            study.tell(trial, outcome.look.distance)
        elif outcome.status == "stopped":
            study.tell(trial, state=TrialState.PRUNED)
        else:
            self._fail(trial, study, failure=outcome.failure, unpaid=outcome.status == "unpaid")

    def give_up(self, key: str, *, failure: str, unpaid: bool = False) -> None:
        """Records an interrupted trial as failed, without running it; if only budget was missing, it can be revived."""
        name, number = key.rsplit("-", 1)
        trial = optuna.trial.Trial(self._studies[name], self._frozen(name, int(number))._trial_id)
        self._fail(trial, self._studies[name], failure=failure, unpaid=unpaid)

    def revive_unpaid(self) -> int:
        """Queues every trial that ended for want of budget again, as it was and where it stood; returns how many.

        Optuna opens no trial that has ended, so a new one continues it, with the same parameters and seed.
        """
        continued = _continued(self._studies)
        revived = 0
        for name, study in self._studies.items():
            for trial in self._trials(name, states=(TrialState.FAIL,)):
                attributes, key = trial.user_attrs, _key(name, trial.number)
                if not attributes.get("unpaid") or key in continued:
                    continue
                # A policy that the space can express is suggested anew from its parameters: the sampler sees those.
                names = ("control", "digest", "seed") if trial.params else ("control", "digest", "seed", "policy")
                kept = {name: attributes[name] for name in names if name in attributes}
                study.enqueue_trial(trial.params, user_attrs={**kept, "continues": key})
                revived += 1
        return revived

    def records(self) -> tuple[TrialRecord, ...]:
        """Every trial that was started, controls first."""
        return _records(self._studies)

    def _enqueue(self, controls: Sequence[Control]) -> None:
        """Queues the controls that are not in the studies yet, each in the study that can express it."""
        known = {trial.user_attrs.get("control") for name in _STUDIES for trial in self._trials(name)}
        for control in controls:
            if control.name in known:
                continue
            attributes = {"control": control.name}
            if not control.policy.is_image_only and self._space.contains(control.policy):
                self._studies["search"].enqueue_trial(self._space.encode(control.policy), user_attrs=attributes)
            else:
                policy = control.policy.to_dict()
                self._studies["controls"].enqueue_trial({}, user_attrs={**attributes, "policy": policy})

    def _fail(
        self, trial: optuna.trial.Trial, study: optuna.Study, *, failure: str | None, unpaid: bool = False
    ) -> None:
        trial.set_user_attr("failure", failure)
        trial.set_user_attr("unpaid", unpaid)
        study.tell(trial, state=TrialState.FAIL)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        """Seeded anew for each proposal by how many there were: a resumed search proposes what it would have."""
        return self._samplers.build(seed=_mix("sampler", self._seed, len(self._trials("search"))))

    def _repeats(self, digest: str, *, but: tuple[str, int]) -> int:
        """How many other trials ran this policy."""
        return sum(
            trial.user_attrs.get("digest") == digest and (name, trial.number) != but
            for name in _STUDIES
            for trial in self._trials(name, states=_not_waiting())
        )

    def _label(self, name: str, trial: optuna.trial.Trial) -> str:
        return str(trial.user_attrs.get("control") or _key(name, trial.number))

    def _trials(self, name: str, *, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self._studies[name].get_trials(deepcopy=False, states=states)

    def _frozen(self, name: str, number: int) -> FrozenTrial:
        return self._trials(name)[number]


def read_records(path: Path) -> tuple[TrialRecord, ...]:
    """Every trial of a study file that was started, without changing it; empty if there is no study yet."""
    if not path.exists():
        return ()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = _open_storage(path)
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    return _records({name: optuna.load_study(study_name=name, storage=storage) for name in _STUDIES if name in names})


def trial_seed(seed: int, *, repeat: int) -> int:
    """The training seed of a search trial: the same for all policies, a fresh one for each repeat of a policy."""
    return _mix("trial", seed, repeat)


def _records(studies: Mapping[str, optuna.Study]) -> tuple[TrialRecord, ...]:
    states = {
        TrialState.RUNNING: "running",
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "stopped",
        TrialState.FAIL: "failed",
    }
    continued = _continued(studies, states=_not_waiting())
    return tuple(
        TrialRecord(
            key=_key(name, trial.number),
            label=str(trial.user_attrs.get("control") or _key(name, trial.number)),
            control=trial.user_attrs.get("control"),
            policy=Policy.from_dict(trial.user_attrs["policy"], where=f"study.db {name} {trial.number}"),
            state="unpaid" if trial.user_attrs.get("unpaid") else states[trial.state],
            seed=trial.user_attrs["seed"],
            distance=trial.value if trial.state == TrialState.COMPLETE else None,
            looks={step / _PERCENT: value for step, value in trial.intermediate_values.items()},
            failure=trial.user_attrs.get("failure"),
        )
        for name, study in studies.items()
        for trial in study.get_trials(deepcopy=False, states=_not_waiting())
        if "seed" in trial.user_attrs and _key(name, trial.number) not in continued
    )


def _continued(studies: Mapping[str, optuna.Study], *, states: tuple[TrialState, ...] | None = None) -> frozenset[str]:
    """The keys of trials that another one (in these states) continues."""
    return frozenset(
        trial.user_attrs["continues"]
        for study in studies.values()
        for trial in study.get_trials(deepcopy=False, states=states)
        if "continues" in trial.user_attrs
    )


def _not_waiting() -> tuple[TrialState, ...]:
    return tuple(state for state in TrialState if state != TrialState.WAITING)


def _key(study: str, number: int) -> str:
    return f"{study}-{number:04d}"


def _mix(purpose: str, *numbers: int) -> int:
    digest = hashlib.sha256(f"{purpose}/{numbers}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _open_storage(path: Path) -> optuna.storages.RDBStorage:
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
