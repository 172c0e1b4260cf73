"""A space holds what its file says: parameters and policies map onto each other, by trials, records and chance."""

import itertools
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopv.errors import SpaceError
from autopv.policy import Layer, Policy
from autopv.policy.ops import op_names
from autopv.spaces import Space
from autopv.spaces.ranges import FloatRange
from autopv.spaces.toml_io import shipped_spaces

SHIPPED = ["stage1_noise", "stage2_expressive", "stage3_defect"]

# Everything that the shipped spaces leave out: layers for some images or frames, fixed values, orders without chains.
WIDE_TOML = """
format_version = 1
num_frames = { int = [2, 5] }
markov_order = { choice = ["star", "any"] }
randomness = { choice = ["shared"] }
frame_loss_weight = { choice = [0.1, 0.5] }
frame_loss_until = { float = [0.25, 1.0] }
num_layers = { int = [2, 3] }
curve = { choice = ["power", "cosine"] }
probability = { float = [0.5, 1.0] }
active_frames = { choice = ["early", "late", "all"] }
[ops.gaussian_noise]
magnitude.sigma = { float = [0.1, 0.1] }
[ops.contrast]
magnitude.loss = { float = [0.123456, 0.87654321] }
"""


def spaces(tmp_path: Path) -> list[Space]:
    (tmp_path / "wide.toml").write_text(WIDE_TOML)
    return [*(Space.load(name) for name in SHIPPED), Space.load(tmp_path / "wide.toml")]


@pytest.fixture(scope="module")
def all_spaces(tmp_path_factory: pytest.TempPathFactory) -> list[Space]:
    return spaces(tmp_path_factory.mktemp("spaces"))


@settings(deadline=None, max_examples=200)
@given(index=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_decode_inverts_encode(all_spaces: list[Space], index: int, seed: int) -> None:
    space = all_spaces[index]
    policy = space.random_policy(seed)
    params = space.encode(policy)
    assert space.decode(params) == policy
    assert space.contains(policy)
    assert set(space.distributions(params)) == set(params)


@settings(deadline=None, max_examples=200)
@given(index=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_policies_are_canonical_unless_that_form_lies_outside(all_spaces: list[Space], index: int, seed: int) -> None:
    space = all_spaces[index]
    policy = space.random_policy(seed)
    assert policy.num_frames >= 2
    assert not policy.is_image_only
    canonical = policy.canonical()
    if policy != canonical:
        highs = {op: magnitudes.high for op, magnitudes in space.magnitudes}
        too_strong = any(layer.magnitude > highs[layer.op] for layer in canonical.layers)
        too_few = len(canonical.layers) < space.num_layers.low
        # A chain so long that all its sources are the image is a star of fresh draws.
        not_offered = canonical.randomness not in space.randomness.options
        assert too_strong or too_few or not_offered


@settings(deadline=None, max_examples=200)
@given(
    low=st.floats(1e-4, 100),
    factor=st.floats(1, 1e4),
    log=st.booleans(),
    share=st.floats(0, 1),
)
def test_a_value_of_a_range_survives_its_share(low: float, factor: float, log: bool, share: float) -> None:
    values = FloatRange(low, low * factor, log=log)
    value = values.at(share)
    assert values.low <= value <= values.high
    assert 0 <= values.share(value) <= 1
    assert values.at(values.share(value)) == value


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_trial_suggests_what_its_parameters_decode_to(all_spaces: list[Space], index: int) -> None:
    space = all_spaces[index]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    for _ in range(12):
        trial = study.ask()
        policy = space.suggest(trial)
        assert space.decode(trial.params) == policy
        assert space.distributions(trial.params) == trial.distributions
        assert space.decode(space.encode(policy)) == policy
        study.tell(trial, policy.frame_loss_weight)


def test_an_encoded_policy_can_be_added_and_enqueued() -> None:
    space = Space.load("stage2_expressive")
    policy = space.random_policy(5)
    params = space.encode(policy)
    study = optuna.create_study()
    study.add_trial(optuna.trial.create_trial(params=params, distributions=space.distributions(params), value=1.0))
    study.enqueue_trial(params)
    assert space.suggest(study.ask()) == policy
    assert space.decode(study.trials[0].params) == policy
    assert space.suggest(optuna.trial.FixedTrial(params)) == policy


def test_every_op_is_reachable_from_a_shipped_space() -> None:
    reached = set()
    for name in shipped_spaces():
        space = Space.load(name)
        reached |= {layer.op for seed in range(300) for layer in space.random_policy(seed).layers}
    assert reached == set(op_names())


def test_data_without_masks_leaves_out_the_ops_that_need_them() -> None:
    space = Space.load("stage3_defect")
    without = space.for_data(has_masks=False)
    assert space.for_data(has_masks=True) == space
    left_out = {op for op, _ in space.magnitudes} - {op for op, _ in without.magnitudes}
    assert left_out == {"defect_fade"}
    assert without.digest != space.digest
    assert not any("masks" in without.random_policy(seed).needs for seed in range(200))


def test_a_space_of_ops_that_the_data_cannot_serve_is_refused(tmp_path: Path) -> None:
    text = WIDE_TOML[: WIDE_TOML.index("[ops.")] + "[ops.defect_fade]\nmagnitude.healed = { float = [0.2, 1.0] }\n"
    (tmp_path / "masks.toml").write_text(text)
    with pytest.raises(SpaceError, match="search space masks: every op in it needs defect masks"):
        Space.load(tmp_path / "masks.toml").for_data(has_masks=False)


def test_a_model_of_few_levels_is_asked_for_no_longer_videos() -> None:
    space = Space.load("stage2_expressive")
    assert space.for_model(max_frames=None) == space.for_model(max_frames=8) == space
    lengths = {space.for_model(max_frames=6).random_policy(seed).num_frames for seed in range(200)}
    assert lengths == {2, 3, 4, 5, 6}
    with pytest.raises(SpaceError, match=r"stage2_expressive: its videos have 2 frames and more.* at most 1"):
        space.for_model(max_frames=1)


def test_stage_2_reaches_every_length_order_randomness_and_curve() -> None:
    space = Space.load("stage2_expressive")
    policies = [space.random_policy(seed) for seed in range(1500)]
    assert {policy.num_frames for policy in policies} == set(range(2, 9))
    orders = {(policy.num_frames, policy.markov_order) for policy in policies}
    assert orders == {(t, k) for t in range(2, 9) for k in range(1, t)}
    assert {policy.randomness for policy in policies} == {"fresh", "shared"}
    assert {layer.curve for policy in policies for layer in policy.layers} == {"linear", "cosine", "power"}
    assert {len(policy.layers) for policy in policies} == {1, 2, 3}


def test_optional_keys_reach_their_policies(all_spaces: list[Space]) -> None:
    layers = {
        (policy.num_frames, layer.frames)
        for policy in (all_spaces[-1].random_policy(seed) for seed in range(600))
        for layer in policy.layers
    }
    assert layers == {
        *((2, (1, 1)), (3, (1, 1)), (3, (2, 2)), (3, (1, 2))),
        *((4, (1, 1)), (4, (2, 3)), (4, (1, 3)), (5, (1, 2)), (5, (3, 4)), (5, (1, 4))),
    }
    probabilities = {layer.probability for seed in range(50) for layer in all_spaces[-1].random_policy(seed).layers}
    assert len(probabilities) > 20


def test_magnitudes_cover_their_ranges_evenly_in_the_logarithm() -> None:
    space = Space.load("stage1_noise")
    noise = [
        layer.magnitude
        for seed in range(2000)
        for layer in space.random_policy(seed).layers
        if layer.op == "gaussian_noise"
    ]
    assert min(noise) >= 0.03
    assert max(noise) <= 0.6
    below = sum(magnitude < (0.03 * 0.6) ** 0.5 for magnitude in noise) / len(noise)
    assert below == pytest.approx(0.5, abs=0.08)


def test_a_seed_repeats_its_policy() -> None:
    space = Space.load("stage2_expressive")
    assert space.random_policy(7) == space.random_policy(7)
    assert len({space.random_policy(seed) for seed in range(50)}) == 50


def test_image_only_is_in_every_space_and_has_no_parameters(all_spaces: list[Space]) -> None:
    for space in all_spaces:
        assert space.contains(Policy.image_only())
        assert space.encode(Policy.image_only()) == {}
        assert space.decode({}) == Policy.image_only()
        assert space.distributions({}) == {}


BLUR = Layer(op="gaussian_blur", magnitude=0.05, frames=(1, 3))
INSIDE = Policy(num_frames=4, layers=(BLUR,))


def test_what_lies_in_the_space_is_contained_also_in_another_form() -> None:
    space = Space.load("stage1_noise")
    assert space.contains(INSIDE)
    assert space.contains(replace(INSIDE, markov_order=3)), "the order of one blur does not matter"
    assert space.contains(replace(INSIDE, provenance={"n": 1}))
    other_form = replace(INSIDE, layers=(BLUR, replace(BLUR, magnitude=0.0)))
    assert space.decode(space.encode(other_form)) == INSIDE


@pytest.mark.parametrize(
    "policy",
    [
        replace(INSIDE, num_frames=7),
        replace(INSIDE, frame_loss_weight=2.0),
        replace(INSIDE, frame_loss_until=0.3),
        replace(INSIDE, layers=(replace(BLUR, magnitude=0.3),)),
        replace(INSIDE, layers=(replace(BLUR, frames=(1, 2)),)),
        replace(INSIDE, layers=(replace(BLUR, probability=0.5),)),
        replace(INSIDE, layers=(Layer(op="erase", magnitude=0.3, frames=(1, 3)),)),
        replace(INSIDE, layers=(Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 3)),), markov_order=2),
        replace(INSIDE, layers=tuple(Layer(op=op, magnitude=0.1, frames=(1, 3)) for op in ("erase", "contrast"))),
    ],
)
def test_what_lies_outside_is_neither_contained_nor_encoded(policy: Policy) -> None:
    space = Space.load("stage1_noise")
    assert not space.contains(policy)
    with pytest.raises(SpaceError, match="must lie in the search space stage1_noise"):
        space.encode(policy)


def test_parameters_that_do_not_fit_are_refused() -> None:
    space = Space.load("stage1_noise")
    params = space.encode(INSIDE)
    with pytest.raises(SpaceError, match=r"'layer0_opp' is not asked here\. Did you mean 'layer0_op'"):
        space.decode({**params, "layer0_opp": "erase"})
    with pytest.raises(SpaceError, match="parameter layer0_op is missing"):
        space.decode({name: value for name, value in params.items() if name != "layer0_op"})
    bad_values = [("layer0_op", "erase"), ("num_frames", True), ("num_frames", 4.0), ("num_frames", 9)]
    bad_values += [("layer0_magnitude", 1.5), ("layer0_magnitude", float("nan")), ("layer0_magnitude", "0.5")]
    for name, value in bad_values:
        with pytest.raises(SpaceError, match=f"parameter {name} must lie in"):
            space.decode({**params, name: value})


def test_merging_layers_leaves_no_policy_outside_its_space(all_spaces: list[Space]) -> None:
    """Two strong blurs merge into one beyond the bounds: then the two stay, and so does the digest of the one."""
    space = all_spaces[0]
    params = space.encode(replace(INSIDE, layers=(replace(BLUR, magnitude=0.05), replace(BLUR, magnitude=0.12))))
    assert space.decode(params) == replace(INSIDE, layers=(replace(BLUR, magnitude=0.13),))
    params = space.encode(replace(INSIDE, layers=(replace(BLUR, magnitude=0.2), replace(BLUR, magnitude=0.2))))
    strong = space.decode(params)
    assert [layer.magnitude for layer in strong.layers] == [0.2, 0.2]
    assert len(strong.canonical().layers) == 1
    assert space.decode(space.encode(strong)) == strong


def test_digests_tell_spaces_apart_and_ignore_comments(all_spaces: list[Space], tmp_path: Path) -> None:
    for first, second in itertools.combinations(all_spaces, 2):
        assert first.digest != second.digest
    (tmp_path / "renamed.toml").write_text("# a comment\n" + WIDE_TOML)
    assert Space.load(tmp_path / "renamed.toml").digest == all_spaces[-1].digest
