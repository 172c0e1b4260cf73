"""The study on disk: which policies were proposed, what they measured, which are stopped. Optuna keeps all of it.

Trials that the search space can express live in the study `search`; controls it cannot express (image-only training has
no parameters, and one trial without parameters would blind a relative sampler) live in the study `controls`.
"""

import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autopv.policy import Policy
from autopv.search.mirror import MirroredStorage
from autopv.search.ranking import most_promising, worth_repeating
from autopv.search.records import (
    NOT_WAITING,
    PERCENT,
    TrialRecord,
    continued_keys,
    num_rejected,
    split_key,
    trial_key,
    trial_label,
    trial_records,
)
from autopv.search.samplers import Samplers
from autopv.search.screen import Screen
from autopv.search.study_file import STUDIES, open_study_file
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import Control

STOPPING = ("halving", "none", "top-k")
"""What becomes of a trial half way: the worse half of all is stopped there (at once, asynchronously), nobody is, or all
are, and the best ones go on when the search has no more budget for new ones."""
# Looks before half of a trial do not tell policies apart (experiments/effect), so nothing is stopped on them; and
# not more than half of the trials, for later ones are not worth enough for that.
_FIRST_STOP, _REDUCTION = 0.5, 2
# Policies are run once more from so many complete searched ones on: fewer are not worth choosing among.
_REPEAT_FROM = 8
# Random policies among which a belief chooses, the same ones throughout a search.
_NUM_CANDIDATES = 500
# So many proposals in a row are rejected at most: a space in which none leaves enough is searched as it is.
_MOST_REJECTED = 20
# What a trial that goes on with another one takes over from it.
_KEPT = ("control", "given", "repeats", "promoted", "digest", "seed")


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
        stopping: str = "halving",
        repeat_share: float = 0.0,
        floor: float = 0.0,
        given: Mapping[str, Policy] = MappingProxyType({}),
        screen: Screen | None = None,
    ) -> None:
        """stopping: one of STOPPING. given: policies to try first after the controls, by name. screen: of proposals.

        repeat_share: of the proposals, to run the most promising policies again on other seeds. floor: of the metric.
        """
        self._space, self._seed, self._rungs = space, seed, tuple(rungs)
        self._stopping, self._repeat_share, self._floor = stopping, repeat_share, floor
        self._sampler_name, self._samplers, self._screen = sampler, Samplers(sampler), screen
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = MirroredStorage(open_study_file(path))
        self._first_stop = min(rung for rung in self._rungs if rung >= _FIRST_STOP)
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=round(self._first_stop * PERCENT), reduction_factor=_REDUCTION
        )
        self._studies = {
            name: optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True, pruner=pruner
            )
            for name in STUDIES
        }
        self._live: dict[str, optuna.trial.Trial] = {}
        self._enqueue(controls)
        self._enqueue_given(given)

    @property
    def num_rungs(self) -> int:
        """How often a trial that is not stopped is measured."""
        return len(self._rungs)

    @property
    def num_trials(self) -> int:
        """Trials that were started, in whatever state they are now; one that another trial continues is not counted."""
        num_started = sum(len(self._trials(name, states=NOT_WAITING)) for name in STUDIES)
        return num_started - self.num_rejected - len(continued_keys(self._studies, states=NOT_WAITING))

    @property
    def num_rejected(self) -> int:
        """Proposals that the screen rejected; no trial ran them."""
        return num_rejected(self._studies)

    def interrupted(self) -> tuple[str, ...]:
        """Keys of trials that were started and did not finish, and are not being worked on now."""
        return tuple(
            key
            for name in STUDIES
            for trial in self._trials(name, states=(TrialState.RUNNING,))
            if (key := trial_key(name, trial.number)) not in self._live
        )

    def release_live(self) -> None:
        """Counts every trial being worked on as interrupted."""
        self._live.clear()

    def propose(self, *, flops: float, resume: str | None = None) -> WorkItem:
        """The next trial to run: the interrupted one named, else a control that still waits, else a new policy."""
        name, trial, policy = self._reopened(resume) if resume is not None else self._asked()
        for _ in range(_MOST_REJECTED):
            if not self._rejects(name, trial, policy):
                break
            name, trial, policy = self._asked()
        attributes = trial.user_attrs
        if "seed" not in attributes:
            trial.set_user_attr("digest", policy.digest)
            trial.set_user_attr(
                "seed", trial_seed(self._seed, repeat=self._repeats(policy.digest, but=(name, trial.number)))
            )
        key = trial_key(name, trial.number)
        self._live[key] = trial
        return WorkItem(
            key=key,
            label=trial_label(trial.user_attrs, key=key),
            policy=policy.to_dict(),
            seed=trial.user_attrs["seed"],
            rungs=self._rungs,
            split="search",
            flops=flops,
            continues=trial.user_attrs.get("continues"),
            may_go_on=self._stopping == "top-k",
        )

    def judge(self, item: WorkItem, look: Look) -> bool:
        """Records a look; returns whether the trial goes on. Controls always do."""
        trial = self._live[item.key]
        name, number = split_key(item.key)
        step = round(look.fraction * PERCENT)
        decision = f"goes_on_from_{step}"
        if decision not in trial.user_attrs:  # else a look replayed after an interruption: what was decided stands
            if step not in self._frozen(name, number).intermediate_values:
                trial.report(look.distance, step)
            last = look.fraction >= self._rungs[-1]
            trial.set_user_attr(decision, not last and not self._stops(trial, look))
        return bool(trial.user_attrs[decision])

    def finish(self, item: WorkItem, outcome: Outcome) -> None:
        """Records how a trial ended."""
        trial = self._live.pop(item.key)
        study = self._studies[split_key(item.key)[0]]
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

    def promote(self) -> bool:
        """Queues the best trial that was stopped half way, to go on; returns whether there was one."""
        stopped = self._stopped()
        if stopped:
            _, name, number = min(stopped)
            self._continue(name, self._frozen(name, number), promoted=True)
        return bool(stopped)

    @property
    def has_stopped(self) -> bool:
        """Whether any trial was stopped, and could go on."""
        return bool(self._stopped())

    @property
    def num_promoted(self) -> int:
        """Trials that went on after they had been stopped."""
        return sum("promoted" in trial.user_attrs for name in STUDIES for trial in self._trials(name))

    def give_up(self, key: str, *, failure: str, unpaid: bool = False) -> None:
        """Records an interrupted trial as failed, without running it; if only budget was missing, it can be revived."""
        name, trial = self._opened(key)
        self._fail(trial, self._studies[name], failure=failure, unpaid=unpaid)

    def revive_unpaid(self) -> int:
        """Queues every trial that ended for want of budget again, as it was and where it stood; returns how many.

        Optuna opens no trial that has ended, so a new one continues it, with the same parameters and seed.
        """
        continued = continued_keys(self._studies)
        revived = 0
        for name in STUDIES:
            for trial in self._trials(name, states=(TrialState.FAIL,)):
                if not trial.user_attrs.get("unpaid") or trial_key(name, trial.number) in continued:
                    continue
                self._continue(name, trial)
                revived += 1
        return revived

    def records(self) -> tuple[TrialRecord, ...]:
        """Every trial that was started, controls first."""
        return trial_records(self._studies)

    def _enqueue(self, controls: Sequence[Control]) -> None:
        """Queues the controls that are not in the studies yet, each in the study that can express it."""
        known = {trial.user_attrs.get("control") for name in STUDIES for trial in self._trials(name)}
        for control in controls:
            if control.name in known:
                continue
            self._queue(control.policy, attributes={"control": control.name})

    def _enqueue_given(self, given: Mapping[str, Policy]) -> None:
        """Queues the given policies that are not in the studies yet, as trials like any other."""
        known = {trial.user_attrs.get("given") for name in STUDIES for trial in self._trials(name)}
        for label, policy in given.items():
            if label not in known:
                self._queue(policy, attributes={"given": label})

    def _reopened(self, key: str) -> tuple[str, optuna.trial.Trial, Policy]:
        """Study, trial and policy of an interrupted trial."""
        name, trial = self._opened(key)
        return name, trial, self._policy_of(name, trial)

    def _asked(self) -> tuple[str, optuna.trial.Trial, Policy]:
        """Study, trial and policy of what waits, of a repetition that is due, or of what the sampler proposes."""
        waiting = self._waiting()
        if waiting is None and self._repeat_due():
            waiting = self._enqueue_repeat()
        if waiting is None and self._sampler_name == "belief":
            waiting = self._enqueue_promising()
        name = waiting or "search"
        study = self._studies[name]
        study.sampler = self._sampler()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = study.ask()
        return name, trial, self._policy_of(name, trial)

    def _policy_of(self, name: str, trial: optuna.trial.Trial) -> Policy:
        """The policy that a trial runs; suggested now if it has none yet."""
        if "policy" in trial.user_attrs:
            return Policy.from_dict(trial.user_attrs["policy"], where=f"study.db {name} {trial.number}")
        policy = self._space.suggest(trial)
        trial.set_user_attr("policy", policy.to_dict())
        return policy

    def _rejects(self, name: str, trial: optuna.trial.Trial, policy: Policy) -> bool:
        """Whether the screen ends a trial before it runs; only what a sampler proposed is asked."""
        if self._screen is None or {*_KEPT, "continues"} & set(trial.user_attrs) or not self._screen.rejects(policy):
            return False
        trial.set_user_attr("rejected", self._screen.left(policy))
        self._studies[name].tell(trial, state=TrialState.FAIL)
        return True

    def _queue(self, policy: Policy, *, attributes: Mapping[str, Any]) -> None:
        """Queues a policy in the study that can express it."""
        if not policy.is_image_only and self._space.contains(policy):
            self._studies["search"].enqueue_trial(self._space.encode(policy), user_attrs=dict(attributes))
        else:
            self._studies["controls"].enqueue_trial({}, user_attrs={**attributes, "policy": policy.to_dict()})

    def _continue(self, name: str, trial: FrozenTrial, **attributes: Any) -> None:
        """Queues a trial that goes on where an ended one stands."""
        kept = {kind: trial.user_attrs[kind] for kind in _KEPT if kind in trial.user_attrs}
        self._queue_again(name, trial, attributes={**kept, **attributes, "continues": trial_key(name, trial.number)})

    def _queue_again(self, name: str, trial: FrozenTrial, *, attributes: Mapping[str, Any]) -> None:
        """Queues a trial of the same policy in the same study."""
        # A policy that the space can express is suggested anew from its parameters: the sampler sees those.
        policy = {} if trial.params else {"policy": trial.user_attrs["policy"]}
        self._studies[name].enqueue_trial(trial.params, user_attrs={**attributes, **policy})

    def _waiting(self) -> str | None:
        """The study in which a trial is queued."""
        return next((name for name in STUDIES if self._trials(name, states=(TrialState.WAITING,))), None)

    def _repeat_due(self) -> bool:
        """Whether a promising policy should be run again before the next one is proposed."""
        searched = [
            trial
            for name in STUDIES
            for trial in self._trials(name)
            if not {"control", "rejected"} & set(trial.user_attrs)
        ]
        num_complete = sum(trial.state == TrialState.COMPLETE for trial in searched)
        num_repeats = sum("repeats" in trial.user_attrs for trial in searched)
        return num_complete >= _REPEAT_FROM and num_repeats < self._repeat_share * (len(searched) - _REPEAT_FROM + 1)

    def _enqueue_repeat(self) -> str | None:
        """Queues the most promising policy once more; returns in which study, None where there is none to repeat."""
        record = worth_repeating(self.records(), floor=self._floor)
        if record is None:
            return None
        name, number = split_key(record.key)
        self._queue_again(name, self._frozen(name, number), attributes={"repeats": record.key})
        return name

    def _enqueue_promising(self) -> str | None:
        """Queues the policy that a draw from what is known favours; returns where, None while too little is known."""
        records = self.records()
        if sum(record.distance is not None for record in records) < _REPEAT_FROM:
            return None
        tried = {record.policy.digest for record in records}
        candidates = [policy for digest, policy in self._candidates.items() if digest not in tried]
        number = len(self._trials("search"))
        ranked = most_promising(records, candidates, floor=self._floor, seed=_mix("belief", self._seed, number))
        policy = next((one for one in ranked if self._screen is None or not self._screen.rejects(one)), None)
        if policy is None:
            return None
        self._queue(policy, attributes={})
        return "search"

    @functools.cached_property
    def _candidates(self) -> dict[str, Policy]:
        """By digest."""
        policies = (self._space.random_policy(_mix("candidate", self._seed, i)) for i in range(_NUM_CANDIDATES))
        return {policy.digest: policy for policy in policies}

    def _stopped(self) -> list[tuple[float, str, int]]:
        """Last distance, study and number of every trial that was stopped and that none continues."""
        continued = continued_keys(self._studies)
        return [
            (trial.intermediate_values[trial.last_step], name, trial.number)
            for name in STUDIES
            for trial in self._trials(name, states=(TrialState.PRUNED,))
            if trial_key(name, trial.number) not in continued and trial.last_step is not None
        ]

    def _stops(self, trial: optuna.trial.Trial, look: Look) -> bool:
        """Whether a trial ends here, before its last look. Controls, repetitions and what was promoted never do."""
        if self._stopping == "none" or look.fraction < self._first_stop:
            return False
        stops = self._stopping == "top-k" or trial.should_prune()  # asked of all: others are compared with them
        return stops and not {"control", "repeats", "promoted"} & set(trial.user_attrs)

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
            for name in STUDIES
            for trial in self._trials(name, states=NOT_WAITING)
        )

    def _opened(self, key: str) -> tuple[str, optuna.trial.Trial]:
        """Study and trial, to be told what became of it."""
        name, number = split_key(key)
        return name, optuna.trial.Trial(self._studies[name], self._frozen(name, number)._trial_id)

    def _trials(self, name: str, *, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self._studies[name].get_trials(deepcopy=False, states=states)

    def _frozen(self, name: str, number: int) -> FrozenTrial:
        return self._trials(name)[number]


def trial_seed(seed: int, *, repeat: int) -> int:
    """The training seed of a search trial: the same for all policies, a fresh one for each repeat of a policy."""
    return _mix("trial", seed, repeat)


def _mix(purpose: str, *numbers: int) -> int:
    digest = hashlib.sha256(f"{purpose}/{numbers}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
