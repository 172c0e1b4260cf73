"""What a search's looks are made of: the effects of policies, of luck and of the training's length, and their sizes.

Log excess is taken as a sum of: a power law of the length that all policies share; each policy's effect, of which
policies like it have a part too and which a longer training forgets by and by; the luck of each training, forgotten
likewise; what a seed does to all policies; and the scatter of a look.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autopv.policy import Layer, Policy
from autopv.policy.ops.base import op_names
from autopv.policy.rules import MAX_FRAMES

Sizes = Mapping[str, Tensor]
"""Standard deviations of log excess (`policy`, `op` at a full dose, `trial`, `seed`), the share of a policy's effect
that those like it have (`alike`), how far they may be from it in each feature (`reach_F`), and what is left after the
length has doubled (`..._memory`)."""
FEATURES = ("num_frames", "frame_loss_weight", "frame_loss_until", "markov_order", "randomness", "num_layers", "dose")
"""In what policies can be alike."""

# Sizes of effects before anything is seen, as medians, and how far (in e-folds) they may be from these: those of
# experiments/effect, in units of log excess, that is about in shares of the excess.
_SIZES = {"policy": 0.15, "op": 0.1, "trial": 0.13, "seed": 0.05}
_SIZE_SPREAD = 1.0
# Share of a policy's effect that others like it have too, and how alike they must be, in units of each feature: each
# has a reach of its own, so that those that do not matter can be found out (experiments/elpv_table tells what it is
# worth: of policies that were left out the order is told with 0.57, of new ones with 0.44).
_ALIKE_SHARE, _ALIKE_SPREAD = 0.5, 1.0
_REACH, _REACH_SPREAD = 1.4, 1.0
# What is left of an effect after the training's length has doubled.
_MEMORY = {"policy": 0.5, "trial": 0.7}
_MEMORY_SPREAD = 1.0
# The free numbers are taken within so many spreads of their medians: a search for the likeliest tries any.
_MOST_SPREADS = 5.0
# Of level and slope, which are to be learnt from the looks alone; of one measurement against its repetition.
_WIDE, LOOK_SD = 10.0, 0.01


@dataclass(frozen=True)
class Places:
    """Policies at training lengths: what covariances are made of."""

    features_NF: Tensor
    doses_NO: Tensor
    identity_N: Tensor
    log2_length_N: Tensor

    @classmethod
    def of(cls, policies: Sequence[Policy], *, lengths: Sequence[float]) -> "Places":
        """Each policy at its length, in full trials."""
        described = [_described(replace(policy, provenance=None)) for policy in policies]
        features, doses, identities = zip(*described, strict=True)
        log2_length_N = torch.tensor(lengths, dtype=torch.float64).log2()
        return cls(torch.stack(features), torch.stack(doses), torch.tensor(identities), log2_length_N)

    def same(self, other: "Places") -> Tensor:
        """1 where the policy is the same."""
        return (self.identity_N[:, None] == other.identity_N[None, :]).double()

    def doublings(self, other: "Places") -> Tensor:
        """How many doublings of the length lie between two."""
        return (self.log2_length_N[:, None] - other.log2_length_N[None, :]).abs()


@functools.lru_cache(maxsize=4096)
def _described(policy: Policy) -> tuple[Tensor, Tensor, int]:
    """Features, doses, and a number that is its own: a search asks for those of the same policies again and again."""
    return policy_features(policy), op_doses(policy), int(policy.digest[:15], 16)


def policy_features(policy: Policy) -> Tensor:
    """Where a policy lies among others, by FEATURES (float64), each about 1 wide; image-only training lies at 0."""
    policy = policy.canonical()
    if policy.is_image_only:
        return torch.zeros(len(FEATURES), dtype=torch.float64)
    features = {
        "num_frames": math.log2(policy.num_frames) / math.log2(MAX_FRAMES),
        "frame_loss_weight": (math.log10(policy.frame_loss_weight) + 3) / 3,
        "frame_loss_until": policy.frame_loss_until,
        "markov_order": (policy.markov_order - 1) / max(1, policy.num_frames - 2),
        "randomness": float(policy.randomness == "shared"),
        "num_layers": (len(policy.layers) - 1) / 2,
        "dose": float(op_doses(policy).sum()),
    }
    return torch.tensor([features[name] for name in FEATURES], dtype=torch.float64)


def op_doses(policy: Policy) -> Tensor:
    """How much of each op a policy has (float64), at most about 1 for each layer.

    A layer counts by its magnitude in its op's bounds, its mean level over the frames and its probability.
    """
    policy = policy.canonical()
    doses = dict.fromkeys(op_names(), 0.0)
    for layer in policy.layers:
        share = magnitude_share(layer)
        levels = [layer.magnitude_at(frame) / max(layer.magnitude, 1e-12) for frame in range(1, policy.num_frames)]
        doses[layer.op] += layer.probability * (0.5 + 0.5 * share) * (0.5 + 0.5 * sum(levels) / len(levels))
    return torch.tensor(list(doses.values()), dtype=torch.float64)


def magnitude_share(layer: Layer) -> float:
    """Where a layer's magnitude lies in its op's bounds, on a logarithmic scale: 0 at the lower one and below, 1 at the
    upper one."""
    op = layer.definition
    return math.log(max(layer.magnitude, op.low) / op.low) / math.log(op.high / op.low)


def common_covariance(one: Places, two: Places) -> Tensor:
    """Covariance of what all policies have in common: a level, and a power law of the length, both unknown."""
    return _WIDE**2 * (1 + one.log2_length_N[:, None] * two.log2_length_N[None, :])


def policy_covariance(one: Places, two: Places, *, sizes: Sizes) -> Tensor:
    """Covariance of the policies' effects: those alike are alike, ops have their own, a longer training forgets all."""
    near_NM = torch.cdist(one.features_NF / sizes["reach_F"], two.features_NF / sizes["reach_F"])
    alike_NM = sizes["alike"] * (-0.5 * near_NM.square()).exp() + (1 - sizes["alike"]) * one.same(two)
    ops_NM = one.doses_NO @ two.doses_NO.T
    effects_NM = sizes["policy"] ** 2 * alike_NM + sizes["op"] ** 2 * ops_NM
    return effects_NM * sizes["policy_memory"] ** one.doublings(two)


def luck_covariance(one: Places, *, seeds_N: Tensor, sizes: Sizes) -> Tensor:
    """Covariance of what the seeds, and chance in each training, did to these looks, and of their scatter."""
    same_seed_NN = (seeds_N[:, None] == seeds_N[None, :]).double()
    fades_NN = sizes["trial_memory"] ** one.doublings(one)
    same_NN = one.same(one) * same_seed_NN
    scatter_NN = LOOK_SD**2 * torch.eye(len(seeds_N), dtype=torch.float64)
    return sizes["trial"] ** 2 * same_NN * fades_NN + sizes["seed"] ** 2 * same_seed_NN + scatter_NN


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def typical() -> Tensor:
    """The medians, on the scale they are fitted on."""
    values = [math.log(_SIZES[name]) for name in _SIZES]
    values += [_logit(_ALIKE_SHARE)] + [_logit(_MEMORY[name]) for name in _MEMORY]
    values += [math.log(_REACH)] * len(FEATURES)
    return torch.tensor(values, dtype=torch.float64)


def spreads() -> Tensor:
    """Standard deviations of what is known of them before anything is seen, on the same scale."""
    values = [_SIZE_SPREAD] * len(_SIZES) + [_ALIKE_SPREAD] + [_MEMORY_SPREAD] * len(_MEMORY)
    return torch.tensor(values + [_REACH_SPREAD] * len(FEATURES), dtype=torch.float64)


def sizes_of(free: Tensor) -> dict[str, Tensor]:
    """What the free numbers stand for."""
    farthest = _MOST_SPREADS * spreads()
    free = torch.clamp(free, typical() - farthest, typical() + farthest)
    policy, op, trial, seed, alike, policy_memory, trial_memory, *_ = free
    return {
        "policy": policy.exp(),
        "op": op.exp(),
        "trial": trial.exp(),
        "seed": seed.exp(),
        "alike": alike.sigmoid(),
        "policy_memory": policy_memory.sigmoid(),
        "trial_memory": trial_memory.sigmoid(),
        "reach_F": free[-len(FEATURES) :].exp(),
    }
