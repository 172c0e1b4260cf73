"""Pretended trainings that know nothing of autopv's own model of effects: random forests over the space's parameters.

What policies have in common is what a forest learns of the recorded excesses from the parameters a sampler sees
(frames, weight, order, number of layers, each op's magnitude), a fresh resampling of the record for each world. What it
leaves unexplained is each policy's own, and luck as in landscape.py.
"""

import functools
import math

import numpy as np
import torch
from landscape import LENGTHS, Landscape, fitted
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from autopv.policy import Policy
from autopv.policy.ops.base import op_names
from autopv.search.effects import magnitude_share

_NUM_TREES = 60
_LEAF = 2


class ForestLandscape(Landscape):
    """One such world; equal for equal numbers."""

    def __init__(self, number: int) -> None:
        super().__init__(number, free=True)
        inputs_PX, differences_PL, own_sd = _record()
        chance = np.random.default_rng(number)
        drawn = chance.integers(len(inputs_PX), size=len(inputs_PX))
        self._forest = _forest(seed=number).fit(inputs_PX[drawn], differences_PL[drawn])
        self._own_sd = own_sd

    def _prior(self, policy: Policy) -> Tensor:
        _, lengths, _ = fitted()
        foretold = self._forest.predict(_inputs(policy)[None])[0]
        by_place = [np.interp(math.log(at), np.log(lengths.recorded), foretold) for at in self._lengths]
        own_L = self.own_draw(policy)
        return torch.tensor(np.array(by_place)) + self._own_sd * own_L


@functools.cache
def _record() -> tuple[np.ndarray, np.ndarray, float]:
    """Parameters of the recorded policies, their log excess less the trend by look, and how much is their own."""
    table, lengths, belief = fitted()
    seen: dict[tuple[Policy, float], list[float]] = {}
    for s in table.sightings:
        difference = math.log(max(s.distance - table.floor, 1.0)) - lengths.trend(s.length)
        seen.setdefault((s.policy, s.length), []).append(difference)
    inputs_PX = np.stack([_inputs(policy) for policy in table.policies])
    differences_PL = np.array([[np.mean(seen[p, at]) for at in lengths.recorded] for p in table.policies])
    left = foretold_left_out(inputs_PX, differences_PL)[:, -1] - differences_PL[:, -1]
    own_variance = left.var() - float(belief.sizes["trial"]) ** 2 / 2
    return inputs_PX, differences_PL, math.sqrt(max(0.0, own_variance))


def foretold_left_out(inputs_PX: np.ndarray, differences_PL: np.ndarray) -> np.ndarray:
    """What forests say of each tenth of the policies from the others."""
    foretold = np.empty_like(differences_PL)
    order = np.random.default_rng(0).permutation(len(inputs_PX))
    for fold in range(10):
        out, kept = order[fold::10], np.setdiff1d(order, order[fold::10])
        foretold[out] = _forest(seed=0).fit(inputs_PX[kept], differences_PL[kept]).predict(inputs_PX[out])
    return foretold


def held_out() -> float:
    """Rank correlation of that with the excess at the end."""
    inputs_PX, differences_PL, _ = _record()
    return float(spearmanr(foretold_left_out(inputs_PX, differences_PL)[:, -1], differences_PL[:, -1]).statistic)


def _forest(*, seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(_NUM_TREES, min_samples_leaf=_LEAF, max_features=0.5, random_state=seed, n_jobs=1)


def _inputs(policy: Policy) -> np.ndarray:
    """The policy as the parameters of its space; an op that is not in it has magnitude 0."""
    policy = policy.canonical()
    shares = dict.fromkeys(op_names(), 0.0)
    for layer in policy.layers:
        shares[layer.op] = max(shares[layer.op], 0.2 + 0.8 * magnitude_share(layer))
    return np.array(
        [
            policy.num_frames,
            math.log10(policy.frame_loss_weight) if policy.num_frames > 1 else -4.0,
            policy.frame_loss_until,
            policy.markov_order,
            float(policy.randomness == "shared"),
            len(policy.layers),
            *shares.values(),
        ]
    )


def main() -> None:
    print(f"policies left out, by forests: rank correlation {held_out():.2f}; own sd {_record()[2]:.3f}; {LENGTHS}")


if __name__ == "__main__":
    main()
