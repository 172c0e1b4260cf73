"""Who proposes the next policy: Optuna's samplers, and two of the literature's that Optuna does not have.

All are rebuilt from the study alone, so that an interrupted search goes on as it would have.
"""

import hashlib
import math
import random
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import torch
import torch.nn.functional as F
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from autopv.errors import InputError, nearest

SAMPLERS = ("tpe", "random", "gp", "evolution", "reinforce", "belief")
_NUM_STARTUP = 10
"""Trials drawn at random before a sampler learns from them; Optuna's own default."""
_TPE_STARTUP = 30
"""There are many parameters, most of which one policy does not have: an estimator that began after 10 trials did worse
at 25 and 33 than random policies (experiments/search_efficiency)."""
_POPULATION, _TOURNAMENT = 20, 5
_MUTATIONS = 1.5
"""Parameters that change from parent to child, on average."""
_STEP = 0.2
"""Standard deviation of a numeric mutation, as a share of the range."""
_NUM_BINS = 10
"""Into which a controller cuts a range, as AutoAugment did with magnitudes."""
_HIDDEN = 32
_CONTROLLER_RATE, _ENTROPY = 0.02, 0.01


def check_sampler(name: str) -> None:
    """Nothing, if there is such a sampler. Raises: InputError with the nearest one."""
    if name not in SAMPLERS:
        raise InputError(f"unknown sampler {name!r}.{nearest(name, SAMPLERS)}")


class Samplers:
    """Makes the sampler for one proposal; a controller lives through all of them, for its learning takes time.

    name: one of SAMPLERS: Optuna's TPE (multivariate, constant liar), random policies, Optuna's Gaussian process,
    regularised evolution, an AutoAugment-style controller, or what is expected of policies (search/belief.py), for
    which this only draws the first ones. Raises: InputError for another.
    """

    def __init__(self, name: str) -> None:
        check_sampler(name)
        self._name = name
        self._controller = _Controller()

    def build(self, *, seed: int) -> BaseSampler:
        """The sampler whose chance comes from `seed`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            match self._name:
                case "random" | "belief":  # a belief chooses among random policies (SearchStudy)
                    return optuna.samplers.RandomSampler(seed=seed)
                case "gp":
                    return optuna.samplers.GPSampler(
                        seed=seed, n_startup_trials=_NUM_STARTUP, warn_independent_sampling=False
                    )
                case "evolution":
                    return RegularizedEvolution(seed=seed)
                case "reinforce":
                    return ControllerSampler(self._controller, seed=seed)
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=_TPE_STARTUP, multivariate=True, constant_liar=True
            )


class _IndependentSampler(BaseSampler):
    """Asks for one parameter after the other, whichever the space asks for: nothing is left to a fallback."""

    def __init__(self, *, seed: int) -> None:
        self._chance = random.Random(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is proposed ahead of the questions."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, for the same reason."""
        return {}


class RegularizedEvolution(_IndependentSampler):
    """A child of the best of a few recent policies, changed in one or two parameters.

    Source: Real et al., arXiv 1802.01548 (regularised evolution: parents age out, the best of a random few is the
    parent). A question that the parent was not asked is answered at random.
    """

    def __init__(self, *, seed: int) -> None:
        super().__init__(seed=seed)
        self._parents: dict[int, FrozenTrial | None] = {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parent's value or, once in a while, another."""
        if trial.number not in self._parents:
            self._parents = {trial.number: self._parent(study)}
        parent = self._parents[trial.number]
        if parent is None or parent.distributions.get(param_name) != param_distribution:
            return _from_unit(param_distribution, self._chance.random())
        value = parent.params[param_name]
        if self._chance.random() >= _MUTATIONS / len(parent.params):
            return value
        if isinstance(param_distribution, CategoricalDistribution):
            return self._chance.choice(param_distribution.choices)
        moved = abs(_to_unit(param_distribution, value) + self._chance.gauss(0, _STEP))
        return _from_unit(param_distribution, moved if moved < 1 else 2 - moved)  # reflected at both ends

    def _parent(self, study: optuna.Study) -> FrozenTrial | None:
        ended = [trial for trial in standings(study) if trial.params]
        if len(ended) < _NUM_STARTUP:
            return None
        youngest = sorted(trial.number for trial in ended)[-_POPULATION:]
        recent = [trial for trial in ended if trial.number in youngest]  # still best first
        return recent[min(self._chance.sample(range(len(recent)), min(_TOURNAMENT, len(recent))))]


class ControllerSampler(_IndependentSampler):
    """Draws each answer from a recurrent controller that learns which sequences of answers do well."""

    def __init__(self, controller: "_Controller", *, seed: int) -> None:
        super().__init__(seed=seed)
        self._controller = controller
        self._sequences: dict[int, _Sequence] = {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value from the bin that was drawn."""
        if trial.number not in self._sequences:
            self._controller.catch_up(study)
            self._sequences = {trial.number: _Sequence(self._controller)}
        num_bins = _num_bins(param_distribution)
        with torch.no_grad():
            shares = self._sequences[trial.number].log_probabilities(param_name, num_bins=num_bins).exp().tolist()
        chosen = self._chance.choices(range(num_bins), weights=shares)[0]
        self._sequences[trial.number].take(param_name, chosen)
        return _from_unit(param_distribution, (chosen + self._chance.random()) / num_bins)


class _Controller(nn.Module):
    """An LSTM over the questions of a policy, trained by REINFORCE on the ranks of the finished trials.

    Source: Cubuk et al., arXiv 1805.09501 (AutoAugment); the reward is a trial's rank among those that ended so far,
    from 1 (best) to -1, which needs no baseline. Every policy is equally likely at the start.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.cell = nn.LSTMCell(_HIDDEN, _HIDDEN)
        with torch.no_grad():
            for parameter in self.cell.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        self.heads = nn.ModuleDict()
        self.answers = nn.ModuleDict()
        self._optimizer = torch.optim.Adam(self.cell.parameters(), lr=_CONTROLLER_RATE)
        self._learnt: set[int] = set()

    def meet(self, name: str, *, num_bins: int) -> None:
        """Nothing; the question has a head and its answers have embeddings from now on."""
        if name in self.heads:
            return
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        generator = torch.Generator().manual_seed(seed)
        head, answers = nn.Linear(_HIDDEN, num_bins), nn.Embedding(num_bins, _HIDDEN)
        with torch.no_grad():
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            answers.weight.copy_(torch.randn(num_bins, _HIDDEN, generator=generator))
        self.heads[name], self.answers[name] = head, answers
        self._optimizer.add_param_group({"params": [*head.parameters(), *answers.parameters()]})

    def catch_up(self, study: optuna.Study) -> None:
        """Nothing; learns from every trial that ended since, in the order in which they ended."""
        ended = sorted(standings(study), key=lambda trial: (trial.datetime_complete, trial.number))
        for index, trial in enumerate(ended):
            if trial.number in self._learnt:
                continue
            self._learnt.add(trial.number)
            if "control" not in trial.user_attrs and trial.params:
                best_first = [other.number for other in _best_first(ended[: index + 1])]
                rank = best_first.index(trial.number)
                self._learn(trial, reward=1 - 2 * rank / max(1, len(best_first) - 1))

    def _learn(self, trial: FrozenTrial, *, reward: float) -> None:
        sequence = _Sequence(self)
        log_likelihood, entropy = torch.zeros(()), torch.zeros(())
        for name, distribution in trial.distributions.items():
            num_bins = _num_bins(distribution)
            log_p = sequence.log_probabilities(name, num_bins=num_bins)
            chosen = min(int(_to_unit(distribution, trial.params[name]) * num_bins), num_bins - 1)
            log_likelihood = log_likelihood + log_p[chosen]
            entropy = entropy - (log_p.exp() * log_p).sum()
            sequence.take(name, chosen)
        self._optimizer.zero_grad()
        torch.autograd.backward(-reward * log_likelihood - _ENTROPY * entropy)
        self._optimizer.step()


class _Sequence:
    """One pass of the controller through the questions of a policy."""

    def __init__(self, controller: _Controller) -> None:
        self._controller = controller
        self._state = (torch.zeros(1, _HIDDEN), torch.zeros(1, _HIDDEN))
        self._state = controller.cell(torch.zeros(1, _HIDDEN), self._state)

    def log_probabilities(self, name: str, *, num_bins: int) -> Tensor:
        """Of each answer to the next question."""
        self._controller.meet(name, num_bins=num_bins)
        logits: Tensor = self._controller.heads[name](self._state[0])[0]
        return F.log_softmax(logits, dim=0)

    def take(self, name: str, chosen: int) -> None:
        """Nothing; the next question is asked after this answer."""
        embedded = self._controller.answers[name](torch.tensor([chosen]))
        self._state = self._controller.cell(embedded, self._state)


def standings(study: optuna.Study) -> list[FrozenTrial]:
    """Every trial that was measured and has ended, best first."""
    return _best_first(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _best_first(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete ones by distance, then stopped ones: those that got further first, among them by distance."""
    measured = [trial for trial in trials if trial.state == TrialState.COMPLETE or trial.intermediate_values]
    return sorted(
        measured, key=lambda trial: (trial.state != TrialState.COMPLETE, -(trial.last_step or 0), _last(trial))
    )


def _last(trial: FrozenTrial) -> float:
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        return trial.value
    return trial.intermediate_values[max(trial.intermediate_values)]


# Every parameter lies on [0, 1): choices and whole numbers in cells of equal width, floats evenly, or evenly in the
# logarithm where the distribution is so.


def _to_unit(distribution: BaseDistribution, value: Any) -> float:
    """Where a value lies: the middle of its cell, or its point."""
    if isinstance(distribution, CategoricalDistribution):
        return (distribution.choices.index(value) + 0.5) / len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return float((value - low + 0.5) / (high - low + 1))
    if high == low:
        return 0.0
    if distribution.log:
        return math.log(value / low) / math.log(high / low)
    return float((value - low) / (high - low))


def _from_unit(distribution: BaseDistribution, unit: float) -> Any:
    """The value there; outside of [0, 1) the nearest one."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[max(0, min(int(unit * count), count - 1))]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        return max(low, min(low + math.floor(unit * (high - low + 1)), high))
    value = low * (high / low) ** unit if distribution.log else low + unit * (high - low)
    return max(low, min(value, high))


def _num_bins(distribution: BaseDistribution) -> int:
    """How many answers a controller chooses among: each choice, each whole number if they are few, else bins."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if isinstance(distribution, IntDistribution):
        return min(_NUM_BINS, distribution.high - distribution.low + 1)
    return _NUM_BINS if distribution.high > distribution.low else 1
