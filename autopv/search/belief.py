"""What the looks of a search say of its policies: the result to expect of each, and how sure that is.

A training's result is its policy's, and luck: as experiments/effect found, another seed of the same policy tells
the order of policies with a correlation of 0.4 to 0.7, and a training of another length may not tell it at all. So the
luckiest run is not the best policy. Here every look is the sum of effects, each with a size that is fitted to all looks
together, and what is expected of a policy is what is left when luck is taken out.

Source: a Gaussian process with random effects (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006,
chapters 2 and 5), its correlation over the logarithm of the training's length being an Ornstein-Uhlenbeck process.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autopv.policy import Policy
from autopv.search.effects import (
    FEATURES,
    Places,
    Sizes,
    common_covariance,
    luck_covariance,
    policy_covariance,
    sizes_of,
    spreads,
    typical,
)

# Excess below this share of the median counts as that much: near the floor it is mostly chance, or negative.
_LEAST_SHARE = 0.05
_FIT_STEPS = 25
# The sizes are fitted to at most so many looks, those at an even choice of policies: it takes the cube of them, many
# times over. What is expected, given the sizes, goes by all looks.
_MOST_FITTED = 200


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One look at one training of a policy. length: of the training so far, 1 being a full trial."""

    policy: Policy
    seed: int
    length: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Log excess to be expected of policies, on the average over seeds. covariance_PP: of what is not known of it."""

    mean_P: Tensor
    covariance_PP: Tensor

    def deviations(self) -> Tensor:
        """Standard deviation of each mean."""
        return self.covariance_PP.diagonal().clamp_min(0).sqrt()

    def draw(self, *, seed: int) -> Tensor:
        """Log excess of each in one world that agrees with what is known."""
        normal_P = torch.randn(len(self.mean_P), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return self.mean_P + cholesky_factor(self.covariance_PP, rounding=1e-6) @ normal_P

    def change(self, index: int, *, reference: int) -> tuple[float, float, float]:
        """The change of excess of one policy against another, as a share of the other's, with its 95% interval."""
        mean = float(self.mean_P[index] - self.mean_P[reference])
        pair = [index, reference]
        sign = torch.tensor([1.0, -1.0], dtype=self.covariance_PP.dtype)
        half = 1.96 * math.sqrt(max(0.0, float(sign @ self.covariance_PP[pair][:, pair] @ sign)))
        return math.expm1(mean), math.expm1(mean - half), math.expm1(mean + half)


class Belief:
    """What is to be expected of any policy, given the looks at some.

    floor: of the metric that measured all of them. Raises: ValueError without a look.
    """

    def __init__(self, sightings: Sequence[Sighting], *, floor: float) -> None:
        if not sightings:
            raise ValueError("nothing was seen yet: there is nothing to expect")
        log_excess_N = _log_excess([s.distance for s in sightings], floor=floor)
        self._level = float(log_excess_N.mean())
        self._seen = _Seen.of(sightings, excess_N=log_excess_N - self._level)
        fitted = _even_choice(sightings)
        self._free = _fit(_Seen.of([sightings[i] for i in fitted], excess_N=self._seen.excess_N[fitted]))
        self._factor_NN, self._weights_N = self._seen.solve(self.sizes)

    @property
    def sizes(self) -> dict[str, Tensor]:
        """The fitted sizes of the effects."""
        return sizes_of(self._free)

    @property
    def effects(self) -> dict[str, float]:
        """The same as numbers, each feature's reach by its name."""
        sizes = self.sizes
        reaches = {f"reach of {name}": float(reach) for name, reach in zip(FEATURES, sizes["reach_F"], strict=True)}
        return {name: float(size) for name, size in sizes.items() if name != "reach_F"} | reaches

    def expect(self, policies: Sequence[Policy], *, length: float = 1.0, shared: bool = False) -> Expectation:
        """What trainings of that length (in full trials) are expected to come to.

        shared: only what each policy has in common with those like it is counted as unknown; what is its own and can
        be known by running it alone is not.
        """
        asked, known, sizes = Places.of(policies, lengths=[length] * len(policies)), self._seen.places, self.sizes
        cross_PN = common_covariance(asked, known) + policy_covariance(asked, known, sizes=sizes)
        own_PP = common_covariance(asked, asked) + policy_covariance(asked, asked, sizes=sizes)
        if shared:
            own_PP = own_PP - (1 - sizes["alike"]) * sizes["policy"] ** 2 * asked.same(asked)
        solved_NP = torch.cholesky_solve(cross_PN.T, self._factor_NN)
        mean_P = cross_PN @ self._weights_N + self._level
        return Expectation(mean_P=mean_P, covariance_PP=own_PP - cross_PN @ solved_NP)


@dataclass(frozen=True)
class _Seen:
    """Looks as tensors. excess_N: log excess above the level of all."""

    places: Places
    seeds_N: Tensor
    excess_N: Tensor

    @classmethod
    def of(cls, sightings: Sequence[Sighting], *, excess_N: Tensor) -> "_Seen":
        places = Places.of([s.policy for s in sightings], lengths=[s.length for s in sightings])
        return cls(places, torch.tensor([s.seed for s in sightings]), excess_N)

    def solve(self, sizes: Sizes) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of the looks' covariance, and its inverse times what was seen."""
        places = self.places
        luck_NN = luck_covariance(places, seeds_N=self.seeds_N, sizes=sizes)
        covariance_NN = common_covariance(places, places) + policy_covariance(places, places, sizes=sizes) + luck_NN
        factor_NN = cholesky_factor(covariance_NN)
        return factor_NN, torch.cholesky_solve(self.excess_N[:, None], factor_NN)[:, 0]


def _fit(seen: _Seen) -> Tensor:
    """The sizes that are likeliest, given the looks and what was known before, as free numbers."""
    free = typical().requires_grad_()
    start = typical()
    optimizer = torch.optim.LBFGS([free], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        factor_NN, solved_N = seen.solve(sizes_of(free))
        unlikely = 0.5 * seen.excess_N @ solved_N + factor_NN.diagonal().log().sum()
        total: Tensor = unlikely + 0.5 * (((free - start) / spreads()) ** 2).sum()
        torch.autograd.backward(total)
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return free.detach()


def _even_choice(sightings: Sequence[Sighting]) -> list[int]:
    """Which sightings to fit to: all, or those of every so many-th policy."""
    policies = list(dict.fromkeys(sighting.policy.digest for sighting in sightings))
    every = -(-len(sightings) // _MOST_FITTED)
    chosen = set(policies[::every])
    return [i for i, sighting in enumerate(sightings) if sighting.policy.digest in chosen]


def cholesky_factor(covariance_NN: Tensor, *, rounding: float = 1e-9) -> Tensor:
    """Of a covariance that may be nearly singular: `rounding`, as a share of the mean variance, is added to each."""
    added_N = (rounding * covariance_NN.diagonal().mean()).expand(len(covariance_NN))
    factor_NN: Tensor = torch.linalg.cholesky(covariance_NN + added_N.diag())
    return factor_NN


def _log_excess(distances: Sequence[float], *, floor: float) -> Tensor:
    excess_N = torch.tensor(distances, dtype=torch.float64) - floor
    median = float(excess_N.abs().median())
    return excess_N.clamp_min(max(_LEAST_SHARE * median, 1e-12)).log()
