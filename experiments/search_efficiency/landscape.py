"""Pretended trainings that go by the recorded ones: what they measure, by policy, seed and length.

The recorded table knows 64 policies; a search asks for others. So the effects that `autopv.search.belief` fits to the
table are drawn anew for each repetition, such that they pass through what was recorded (as near as luck allows) and are
free, within what the fit leaves open, elsewhere. A repetition is one world that agrees with the record.

The belief forgets evenly over the logarithm of the length; the record does not: between a third and two thirds of a
trial the order of policies changes more than before and after together. So lengths are first put where the record has
them (`Lengths`): as far apart as the correlations of policies between looks say, luck taken out.

Source: Wilson et al., "Efficiently Sampling Functions from Gaussian Process Posteriors", arXiv 2002.09309 (a draw from
the prior, by random features, is corrected by what was seen).
"""

import functools
import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autopv.policy import Policy
from autopv.policy.ops.base import op_names
from autopv.search.belief import Belief, Sighting, cholesky_factor
from autopv.search.effects import (
    FEATURES,
    LOOK_SD,
    Places,
    luck_covariance,
    op_doses,
    policy_covariance,
    policy_features,
)

TABLE = Path(__file__).parents[1] / "elpv_table"
LENGTHS = (1 / 12, 1 / 3, 1 / 2, 1.0)
"""At which pretended trainings can be looked at, as shares of a full trial."""
_NUM_WAVES = 512
_MOST_SHARED = 0.98
"""Looks that tell as much of each other as each of itself would lie at one place, and leave nothing to draw."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """The recorded looks, and the floor of their metric."""

    sightings: tuple[Sighting, ...]
    floor: float

    @classmethod
    def load(cls) -> "Table":
        """Whatever experiments/elpv_table has recorded so far, of policies with both seeds."""
        lines = [json.loads(line) for line in (TABLE / "curves.jsonl").read_text().splitlines()]
        floor = json.loads((TABLE / "settings.json").read_text())["floor"]
        names = [line["policy"] for line in lines]
        sightings = [
            Sighting(
                policy=Policy.parse(line["described"]), seed=line["seed"], length=row["look"], distance=row["distance"]
            )
            for line in lines
            if names.count(line["policy"]) == 2
            for row in line["rows"]
        ]
        return cls(sightings=tuple(sightings), floor=floor)

    @property
    def policies(self) -> list[Policy]:
        """Each once, in the order of the record."""
        return list(dict.fromkeys(sighting.policy for sighting in self.sightings))


@dataclass(frozen=True)
class Lengths:
    """Where lengths lie by what they tell of one another, and what all trainings come to there."""

    recorded: tuple[float, ...]
    places: tuple[float, ...]
    mean_log_excess: tuple[float, ...]

    @classmethod
    def of(cls, table: Table) -> "Lengths":
        """From the record: the less a look tells of the next one, on another seed and seeds' luck taken out, the
        farther they are apart."""
        lengths = sorted({sighting.length for sighting in table.sightings})
        seen = {(s.policy, s.seed, s.length): math.log(max(s.distance - table.floor, 1.0)) for s in table.sightings}
        one, two = sorted({s.seed for s in table.sightings})
        looks_LSP = torch.tensor(
            [[[seen[p, s, length] for p in table.policies] for s in (one, two)] for length in lengths]
        )
        across_LL = torch.corrcoef(looks_LSP.transpose(0, 1).flatten(0, 1))[: len(lengths), len(lengths) :]
        own_L = across_LL.diagonal()
        shared_LL = (across_LL + across_LL.T) / 2 / (own_L[:, None] * own_L[None, :]).sqrt()
        places = [0.0]
        for i in range(len(lengths) - 1):
            places.append(places[-1] - math.log2(float(shared_LL[i, i + 1].clamp(0.1, _MOST_SHARED))))
        return cls(
            tuple(lengths), tuple(place - places[-1] for place in places), tuple(looks_LSP.mean((1, 2)).tolist())
        )

    def place(self, length: float) -> float:
        """0 at the end of a trial, less before; between recorded lengths as their logarithms lie."""
        return self._between(length, self.places)

    def trend(self, length: float) -> float:
        """Log excess of all on the average."""
        return self._between(length, self.mean_log_excess)

    def _between(self, length: float, values: tuple[float, ...]) -> float:
        return float(np.interp(math.log(length), [math.log(recorded) for recorded in self.recorded], values))


@functools.cache
def fitted() -> tuple[Table, Lengths, Belief]:
    """The table, its lengths, and what it leads to expect of the differences from the trend: the surrogate."""
    table = Table.load()
    lengths = Lengths.of(table)
    differences = [
        replace(
            sighting,
            length=2 ** lengths.place(sighting.length),
            distance=max(sighting.distance - table.floor, 1.0) / math.exp(lengths.trend(sighting.length)),
        )
        for sighting in table.sightings
    ]
    return table, lengths, Belief(differences, floor=0.0)


class Landscape:
    """One world that agrees with the record; equal for equal numbers. `free`: one that does not know the record."""

    def __init__(self, number: int, *, free: bool = False) -> None:
        table, lengths, belief = fitted()
        self.floor = table.floor
        self._number = number
        self._sizes = belief.sizes
        generator = torch.Generator().manual_seed(number)
        self._lengths = sorted({*LENGTHS, *lengths.recorded})
        places_L = torch.tensor([lengths.place(length) for length in self._lengths], dtype=torch.float64)
        self._placed = [2 ** float(place) for place in places_L]
        apart_LL = (places_L[:, None] - places_L[None, :]).abs()
        self._policy_factor_LL = cholesky_factor(self._sizes["policy_memory"] ** apart_LL)
        self._trial_factor_LL = cholesky_factor(self._sizes["trial_memory"] ** apart_LL)
        self._waves_FW = _normal(len(FEATURES), _NUM_WAVES, generator=generator) / self._sizes["reach_F"][:, None]
        self._phases_W = 2 * math.pi * torch.rand(_NUM_WAVES, generator=generator, dtype=torch.float64)
        self._weights_WL = _normal(_NUM_WAVES, len(self._lengths), generator=generator) @ self._policy_factor_LL.T
        self._ops_OL = _normal(len(op_names()), len(self._lengths), generator=generator) @ self._policy_factor_LL.T
        self._effects: dict[str, Tensor] = {}
        # What all have in common is taken as it is: it changes no order.
        self._trend_L = torch.tensor([lengths.trend(length) for length in self._lengths], dtype=torch.float64)
        self._correction_N: Tensor | None = None
        sightings = table.sightings
        placed = [2 ** lengths.place(s.length) for s in sightings]
        self._known = Places.of([s.policy for s in sightings], lengths=placed)
        if not free:
            seen_N = torch.tensor([max(s.distance - table.floor, 1.0) for s in sightings], dtype=torch.float64).log()
            luck_NN = luck_covariance(self._known, seeds_N=torch.tensor([s.seed for s in sightings]), sizes=self._sizes)
            covariance_NN = policy_covariance(self._known, self._known, sizes=self._sizes) + luck_NN
            drawn_N = torch.stack([self._prior(s.policy)[self._index(s.length)] for s in sightings])
            drawn_N += torch.linalg.cholesky(luck_NN) @ _normal(len(seen_N), generator=generator)
            trend_N = torch.stack([self._trend_L[self._index(s.length)] for s in sightings])
            self._correction_N = torch.linalg.solve(covariance_NN, seen_N - trend_N - drawn_N)

    def log_excess(self, policy: Policy, *, length: float = 1.0) -> float:
        """What trainings of the policy come to on the average over seeds."""
        return float(self._effect(policy)[self._index(length)])

    def distance(self, policy: Policy, *, seed: int, length: float) -> float:
        """What one training measures there."""
        chance = _chance(f"{self._number}/{policy.digest}/{seed}")
        trial_L = self._trial_factor_LL @ _normal(len(self._lengths), generator=chance)
        scatter_L = LOOK_SD * _normal(len(self._lengths), generator=chance)
        common = float(_normal(1, generator=_chance(f"{self._number}/{seed}")))
        luck_L = self._sizes["trial"] * trial_L + scatter_L + self._sizes["seed"] * common
        return self.floor + math.exp(float((self._effect(policy) + luck_L)[self._index(length)]))

    def _effect(self, policy: Policy) -> Tensor:
        if policy.digest not in self._effects:
            effect_L = self._trend_L + self._prior(policy)
            if self._correction_N is not None:
                asked = Places.of([policy] * len(self._lengths), lengths=self._placed)
                effect_L = effect_L + policy_covariance(asked, self._known, sizes=self._sizes) @ self._correction_N
            self._effects[policy.digest] = effect_L
        return self._effects[policy.digest]

    def _prior(self, policy: Policy) -> Tensor:
        """The policy's effect at every length, as it might be if nothing had been recorded."""
        waves_W = (policy_features(policy) @ self._waves_FW + self._phases_W).cos() * math.sqrt(2 / _NUM_WAVES)
        own_L, alike = self.own_draw(policy), self._sizes["alike"]
        effect_L: Tensor = self._sizes["policy"] * (
            alike.sqrt() * (waves_W @ self._weights_WL) + (1 - alike).sqrt() * own_L
        )
        effect_L += self._sizes["op"] * op_doses(policy) @ self._ops_OL
        return effect_L

    def own_draw(self, policy: Policy) -> Tensor:
        """What is this policy's alone, at every length, of size 1."""
        chance = _chance(f"{self._number}/{policy.digest}")
        return self._policy_factor_LL @ _normal(len(self._lengths), generator=chance)

    def _index(self, length: float) -> int:
        return min(range(len(self._lengths)), key=lambda i: abs(self._lengths[i] - length))


class Mixed:
    """A domain that is like another one: its policies' effects correlate with the other's by `likeness`."""

    def __init__(self, one: Landscape, other: Landscape, *, likeness: float) -> None:
        self._parts = ((likeness, one), (math.sqrt(1 - likeness**2), other))
        self._one, self.floor = one, one.floor

    def log_excess(self, policy: Policy, *, length: float = 1.0) -> float:
        """As Landscape.log_excess; differences from image-only training are mixed."""
        image_only = Policy.image_only()
        level = self._one.log_excess(image_only, length=length)
        return level + sum(
            share * (part.log_excess(policy, length=length) - part.log_excess(image_only, length=length))
            for share, part in self._parts
        )

    def distance(self, policy: Policy, *, seed: int, length: float) -> float:
        """As Landscape.distance, with the first one's luck."""
        luck = math.log(self._one.distance(policy, seed=seed, length=length) - self.floor)
        luck -= self._one.log_excess(policy, length=length)
        return self.floor + math.exp(self.log_excess(policy, length=length) + luck)


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _chance(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
