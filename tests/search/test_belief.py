"""What is expected of policies: luck is taken out, likeness and the training's length are taken into account."""

import math
import random
from statistics import fmean

import pytest
import torch

from autopv.policy import Policy
from autopv.search import belief as belief_module
from autopv.search.belief import Belief, Sighting
from autopv.search.effects import FEATURES, op_doses, policy_features, sizes_of, typical
from autopv.spaces import Space

SPACE = Space.load("stage2_expressive")
FLOOR = 200.0


def sighting(policy: Policy, log_excess: float, *, seed: int = 1, length: float = 1.0) -> Sighting:
    return Sighting(policy=policy, seed=seed, length=length, distance=FLOOR + math.exp(log_excess))


def policies(count: int) -> list[Policy]:
    return [SPACE.random_policy(seed) for seed in range(count)]


def test_the_luckiest_run_is_not_taken_at_its_word() -> None:
    chance = random.Random(0)
    known = policies(24)
    looks = []
    for policy in known[2:]:
        effect = chance.gauss(0, 0.15)
        looks += [sighting(policy, 6 + effect + chance.gauss(0, 0.15), seed=seed) for seed in (1, 2)]
    # Four runs of the first say that it is good; one lucky run of the second is all there is of that.
    runs = (5.45, 5.8, 5.5, 5.65)
    looks += [sighting(known[0], run, seed=seed) for seed, run in enumerate(runs, start=1)]
    looks += [sighting(known[1], 5.57, seed=2)]
    expected = Belief(looks, floor=FLOOR).expect(known[:2])
    assert expected.mean_P[0] < expected.mean_P[1], "four good runs are worth more than a slightly better one"
    assert expected.deviations()[0] < expected.deviations()[1]
    assert 5.57 < expected.mean_P[1] < 6


def test_it_is_the_exact_posterior_of_the_model_it_states() -> None:
    """Against the textbook's formula for repeated measurements of policies that are nothing alike."""
    known = policies(3)
    looks = [sighting(known[0], 5.0, seed=s) for s in (1, 2)] + [sighting(known[1], 6.0, seed=s) for s in (1, 2)]
    belief = Belief(looks, floor=FLOOR)
    sizes = belief.effects
    differences = policy_features(known[0]) - policy_features(known[1])
    reach_F = torch.tensor([sizes[f"reach of {name}"] for name in FEATURES], dtype=torch.float64)
    alike = sizes["alike"] * math.exp(-0.5 * float((differences / reach_F).square().sum()))
    doses = float((op_doses(known[0]) - op_doses(known[1])).square().sum())
    # The difference of two policies: its prior variance, and what two pairs of runs on common seeds tell of it.
    prior = 2 * sizes["policy"] ** 2 * (1 - alike) + sizes["op"] ** 2 * doses
    noise = 2 * (sizes["trial"] ** 2 + 0.01**2) / 2
    expected = belief.expect(known[:2])
    shrunk = prior / (prior + noise)
    assert float(expected.mean_P[0] - expected.mean_P[1]) == pytest.approx(-1.0 * shrunk, rel=1e-3)
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    variance = float(sign @ expected.covariance_PP @ sign)
    assert variance == pytest.approx(prior * noise / (prior + noise), rel=1e-3)


def test_a_policy_that_was_never_run_is_expected_to_do_as_those_like_it() -> None:
    noise = [
        Policy.parse(f"T=4 order=1 fresh weight=0.1: gaussian_noise sigma={s} linear 1-3") for s in (0.2, 0.3, 0.4)
    ]
    erase = [Policy.parse(f"T=4 order=1 fresh weight=0.1: erase area={a} linear 1-3") for a in (0.2, 0.3, 0.4)]
    looks = [sighting(p, 5.5, seed=s) for p in (noise[0], noise[2]) for s in (1, 2)]
    looks += [sighting(p, 6.5, seed=s) for p in (erase[0], erase[2]) for s in (1, 2)]
    expected = Belief(looks, floor=FLOOR).expect([noise[1], erase[1]])
    assert expected.mean_P[0] < expected.mean_P[1] - 0.3


def test_features_that_do_not_matter_are_found_out() -> None:
    chance = random.Random(0)
    known = policies(60)
    looks = [
        sighting(policy, 6 + 0.2 * len(policy.layers) + chance.gauss(0, 0.05), seed=seed)
        for policy in known[:40]
        for seed in (1, 2)
    ]
    belief = Belief(looks, floor=FLOOR)
    reaches = {name: belief.effects[f"reach of {name}"] for name in FEATURES}
    assert reaches["num_layers"] < 0.7 * min(reaches[name] for name in FEATURES if name not in ("num_layers", "dose"))
    expected = belief.expect(known[40:]).mean_P.tolist()
    by_layers = {n: [e for e, p in zip(expected, known[40:], strict=True) if len(p.layers) == n] for n in (1, 2, 3)}
    assert max(by_layers[1]) < min(by_layers[2])
    assert max(by_layers[2]) < min(by_layers[3])


def test_an_op_that_does_harm_in_any_company_is_found_out() -> None:
    chance = random.Random(0)
    known = policies(150)
    harmful = "dead_lines"

    def harm(policy: Policy) -> float:
        return 0.8 * float(any(layer.op == harmful for layer in policy.layers))

    looks = [sighting(policy, 6 + harm(policy) + chance.gauss(0, 0.05)) for policy in known]
    belief = Belief(looks, floor=FLOOR)
    asked = [
        Policy.parse(f"T=4 order=1 fresh weight=0.1: {op} linear 1-3")
        for op in ("dead_lines share=0.05", "defocus radius=0.1", "heat sigma=0.05", "erase area=0.2")
    ]
    bad, *others = belief.expect(asked, shared=True).mean_P.tolist()
    assert bad > max(others) + 0.2


def test_looks_half_way_tell_of_the_end() -> None:
    """Halving leaves half of the policies with one look, which is worth something."""
    known = policies(12)
    looks = [sighting(p, 6 + 0.1 * i, seed=1) for i, p in enumerate(known[:8])]
    looks += [sighting(p, 7 + 0.1 * i, seed=1, length=0.5) for i, p in enumerate(known)]
    expected = Belief(looks, floor=FLOOR).expect(known[8:]).mean_P
    assert expected.tolist() == sorted(expected.tolist())


def test_the_sizes_of_the_effects_are_found() -> None:
    chance = random.Random(1)
    looks = []
    for policy in policies(60):
        effect = chance.gauss(0, 0.3)
        looks += [sighting(policy, 6 + effect + chance.gauss(0, 0.1), seed=s) for s in (1, 2)]
    effects = Belief(looks, floor=FLOOR).effects
    assert effects["policy"] == pytest.approx(0.3, rel=0.3)
    assert effects["trial"] == pytest.approx(0.1, rel=0.3)


def test_a_longer_training_is_expected_to_be_less_sure_and_to_go_on_as_the_power_law_says() -> None:
    chance = random.Random(2)
    looks = []
    for policy in policies(30):
        effects = {length: chance.gauss(0, 0.2) for length in (0.25, 0.5, 1.0)}  # each length has its own order
        for seed in (1, 2):
            for length, effect in effects.items():
                level = 6 - 0.5 * math.log2(length)
                looks.append(sighting(policy, level + effect + chance.gauss(0, 0.02), seed=seed, length=length))
    belief = Belief(looks, floor=FLOOR)
    known = policies(30)
    near, far = belief.expect(known, length=1.0), belief.expect(known, length=4.0)
    assert belief.effects["policy_memory"] < 0.3, "no length told of the next"
    assert fmean(far.deviations().tolist()) > 2 * fmean(near.deviations().tolist())
    assert float(far.mean_P.mean()) == pytest.approx(5.0, abs=0.3)
    spread = float(far.mean_P.std() / near.mean_P.std())
    assert spread < 0.1, "what is expected of all is the same where nothing is known"
    change, low, high = far.change(0, reference=1)
    assert low < change < high
    assert low < -0.2 < 0.2 < high


def test_distances_at_the_floor_and_below_are_counted_as_little() -> None:
    known = policies(3)
    looks = [
        Sighting(policy=p, seed=1, length=1.0, distance=d) for p, d in zip(known, (199.0, 300.0, 310.0), strict=True)
    ]
    expected = Belief(looks, floor=FLOOR).expect(known)
    assert torch.isfinite(expected.mean_P).all()
    assert expected.mean_P[0] == expected.mean_P.min()


def test_nothing_is_expected_of_nothing() -> None:
    with pytest.raises(ValueError, match="nothing was seen"):
        Belief([], floor=0.0)


def test_features_of_image_only_are_those_of_no_corruption() -> None:
    assert not policy_features(Policy.image_only()).any()
    assert all(policy_features(policy).any() for policy in policies(20))


@pytest.mark.parametrize("step", [-1e3, -8.0, 8.0, 1e3])
def test_whatever_sizes_a_fit_tries_can_be_solved(step: float) -> None:
    """A line search steps far out; once that ended a search with a covariance that was not positive-definite."""
    known = policies(70)
    looks = [
        sighting(policy, 6 + 0.001 * i, seed=seed, length=length)
        for i, policy in enumerate(known)
        for seed in (1, 2)
        for length in (0.5, 1.0)
    ]
    excess_N = torch.tensor([math.log(look.distance - FLOOR) for look in looks], dtype=torch.float64)
    seen = belief_module._Seen.of(looks, excess_N=excess_N - excess_N.mean())
    for index in range(len(typical())):
        free = typical()
        free[index] += step
        factor_NN, solved_N = seen.solve(sizes_of(free))
        assert bool(torch.isfinite(factor_NN).all())
        assert bool(torch.isfinite(solved_N).all())
    _, solved_N = seen.solve(sizes_of(typical() + step))
    assert bool(torch.isfinite(solved_N).all())
