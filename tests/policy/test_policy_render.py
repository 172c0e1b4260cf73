"""Rendering: curves, Markov orders, layers, what it refuses, and what it costs."""

import subprocess
import sys
import time
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import policies
from torch import Tensor

from autopv.errors import PolicyError
from autopv.policy import Layer, Policy
from autopv.policy.curves import CURVES, level
from autopv.policy.markov import source_frame
from autopv.policy.render import Part
from autopv.testing.op_suite import defect_masks, structured_images

IMAGES_BCHW = structured_images((4, 1, 16, 16), seed=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ("linear", [1, 1, 3 / 4, 2 / 4, 1 / 4, 0]),
        ("cosine", [1, 1, 0.853553, 0.5, 0.146447, 0]),
        ("power", [1, 1, 9 / 16, 4 / 16, 1 / 16, 0]),
    ],
)
def test_a_curve_is_full_up_to_a_and_falls_to_zero_after_b(curve: str, expected: list[float]) -> None:
    assert [level(curve, frame=t, frames=(2, 5)) for t in range(1, 7)] == pytest.approx(expected, abs=1e-6)


@given(st.sampled_from(CURVES), st.integers(1, 63), st.integers(0, 62))
@settings(deadline=None, max_examples=50)
def test_every_curve_falls_from_one_and_is_positive_while_active(curve: str, first: int, extra: int) -> None:
    last = min(63, first + extra)
    levels = [level(curve, frame=t, frames=(first, last)) for t in range(1, 65)]
    assert levels[:first] == [1.0] * first
    assert all(a > b for a, b in zip(levels[first - 1 : last], levels[first : last + 1], strict=True))
    assert levels[last:] == [0.0] * (64 - last)


@pytest.mark.parametrize(
    ("markov_order", "sources"), [(1, [2, 3, 4, 5, 6]), (2, [3, 4, 5, 6, 6]), (4, [5, 6, 6, 6, 6]), (5, [6] * 5)]
)
def test_the_source_is_k_frames_on_or_the_image(markov_order: int, sources: list[int]) -> None:
    assert [source_frame(t, markov_order=markov_order, num_frames=6) for t in range(1, 6)] == sources


@pytest.mark.parametrize("markov_order", [1, 2, 3, 4])
def test_noise_frames_correlate_as_their_order_says(markov_order: int) -> None:
    """Frame t's noise contains exactly that of frame t + k: their covariance is the variance of the latter."""
    layer = Layer(op="gaussian_noise", magnitude=0.1, frames=(1, 4))
    policy = Policy(num_frames=5, markov_order=markov_order, layers=(layer,))
    images_BCHW = torch.full((64, 1, 64, 64), 0.5)
    noise_TN = (policy.render(images_BCHW, generator=seeded()) - 0.5).transpose(0, 1).flatten(start_dim=1)
    for t in range(1, 5):
        for later in range(t + 1, 5):
            on_chain = (later - t) % markov_order == 0
            expected = layer.magnitude_at(later) ** 2 if on_chain else 0.0
            assert float((noise_TN[t - 1] * noise_TN[later - 1]).mean()) == pytest.approx(expected, abs=1e-4)


def test_shared_noise_is_one_field_scaled() -> None:
    layer = Layer(op="gaussian_noise", magnitude=0.1, frames=(1, 4))
    policy = Policy(num_frames=5, markov_order=4, randomness="shared", layers=(layer,))
    noise_TCHW = policy.render(torch.full((1, 1, 16, 16), 0.5), generator=seeded())[0] - 0.5
    for t in (2, 3, 4):
        torch.testing.assert_close(noise_TCHW[t - 1], noise_TCHW[0] * layer.magnitude_at(t) / 0.1, atol=1e-6, rtol=0)


def test_layers_apply_in_their_order() -> None:
    noise = Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 1))
    blur = Layer(op="gaussian_blur", magnitude=0.2, frames=(1, 1))
    smooth, rough = (
        Policy(num_frames=2, layers=layers).render(IMAGES_BCHW, generator=seeded())[:, 0]
        for layers in ((noise, blur), (blur, noise))
    )
    assert float(smooth.diff(dim=-1).abs().mean()) < 0.3 * float(rough.diff(dim=-1).abs().mean())


def test_nothing_is_clamped_between_frames() -> None:
    """From a white image, clamping every step of a long chain would pile up a bias."""
    layer = Layer(op="gaussian_noise", magnitude=1.0, frames=(1, 15))
    policy = Policy(num_frames=16, layers=(layer,))
    chain_BCHW = policy.render(torch.ones(64, 1, 64, 64), generator=seeded())[:, 0]
    # Of x = 1 + N(0, 1) clamped once: half are 1, P(x < 0) are 0, and between lies E[x; 0 < x < 1].
    normal = torch.distributions.Normal(0.0, 1.0)
    below, half = normal.cdf(torch.tensor([-1.0, 0.0])).tolist()
    density_below, density_half = normal.log_prob(torch.tensor([-1.0, 0.0])).exp().tolist()
    expected = half + (half - below) - (density_half - density_below)
    assert float(chain_BCHW.mean()) == pytest.approx(expected, abs=2e-3)


@settings(deadline=None, max_examples=60)
@given(policies(), st.sampled_from([(1, 1, 8, 8), (2, 3, 12, 9)]))
def test_any_policy_renders_any_images(policy: Policy, shape_BCHW: tuple[int, int, int, int]) -> None:
    images_BCHW = structured_images(shape_BCHW, seed=1)
    batch, _, height, width = shape_BCHW
    beside = {
        "masks_BHW": defect_masks((batch, height, width)),
        "donors": structured_images((4, *shape_BCHW[1:]), seed=2),
    }
    frames_BTCHW = policy.render(images_BCHW, generator=seeded(), **beside)
    assert frames_BTCHW.shape == (shape_BCHW[0], policy.num_frames, *shape_BCHW[1:])
    assert torch.equal(frames_BTCHW[:, -1], images_BCHW)
    assert bool(((frames_BTCHW >= 0) & (frames_BTCHW <= 1)).all())
    assert torch.equal(policy.render(images_BCHW, generator=seeded(), **beside), frames_BTCHW)
    draw = policy.draw(shape_BCHW, generator=seeded())
    assert torch.equal(policy.corrupt(images_BCHW, draw, **beside), frames_BTCHW)


def test_image_only_renders_the_image_and_draws_nothing() -> None:
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(Policy.image_only().render(IMAGES_BCHW, generator=generator), IMAGES_BCHW[:, None])
    assert torch.equal(generator.get_state(), before)


def test_frame_weights_fall_to_zero_and_the_last_stays_one() -> None:
    policy = Policy(num_frames=3, frame_loss_weight=0.4, frame_loss_until=0.5)
    assert policy.frame_weights(0.0) == pytest.approx((0.4, 0.4, 1.0))
    assert policy.frame_weights(0.25) == pytest.approx((0.2, 0.2, 1.0))
    assert policy.frame_weights(0.5) == policy.frame_weights(1.0) == (0.0, 0.0, 1.0)
    constant = replace(policy, frame_loss_until=1.0)
    assert constant.frame_weights(0.0) == constant.frame_weights(1.0) == (0.4, 0.4, 1.0)
    assert Policy.image_only().frame_weights(0.3) == (1.0,)
    for progress in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(PolicyError, match="progress must be a number"):
            policy.frame_weights(progress)


VIDEO = Policy(num_frames=3, layers=(Layer(op="erase", magnitude=0.3, frames=(1, 2), probability=0.5),))


@pytest.mark.parametrize(
    ("images_BCHW", "message"),
    [
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "must be floating-point .* got torch.uint8; convert"),
        (torch.zeros(1, 8, 8), r"four sizes of at least 1, got \(1, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), "at least 1"),
        (torch.zeros(2, 1, 0, 8), "at least 1"),
    ],
)
def test_images_that_cannot_be_rendered_are_refused(images_BCHW: Tensor, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        VIDEO.render(images_BCHW, generator=seeded())


def test_masks_and_donors_must_fit_the_images() -> None:
    for masks_BHW in (torch.zeros(4, 16, 16), torch.zeros(3, 16, 16, dtype=torch.bool)):
        with pytest.raises(PolicyError, match=r"masks_BHW must be bool, one per image and of its size \(4, 16, 16\)"):
            VIDEO.render(IMAGES_BCHW, generator=seeded(), masks_BHW=masks_BHW)
    for donors in (IMAGES_BCHW[0], IMAGES_BCHW[:0], IMAGES_BCHW[..., :8]):
        with pytest.raises(PolicyError, match=r"donors must be images \(N, 1, 16, 16\) like the others"):
            VIDEO.render(IMAGES_BCHW, generator=seeded(), donors=donors)


@pytest.mark.parametrize(("op", "message"), [("defect_fade", "have no masks"), ("donor_paste", "other images")])
def test_an_op_that_lacks_what_it_needs_says_so(op: str, message: str) -> None:
    layer = Layer(op=op, magnitude=0.4, frames=(1, 2))
    policy = Policy(num_frames=3, layers=(layer,))
    assert policy.needs == layer.definition.needs
    with pytest.raises(PolicyError, match=f"op {op} needs .* {message}|op {op} needs {message}"):
        policy.render(IMAGES_BCHW, generator=seeded())


def test_no_gradient_flows_through_a_rendering() -> None:
    images_BCHW = IMAGES_BCHW.clone().requires_grad_()
    assert not VIDEO.render(images_BCHW, generator=seeded()).requires_grad


@pytest.mark.parametrize(("markov_order", "most"), [(1, 3), (7, 3)])
def test_a_rendering_holds_few_frames_beside_its_video(markov_order: int, most: int) -> None:
    """Of noise, one step's draw and the frames that another is made from: not one of each per frame."""
    layer = Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 7))
    policy = Policy(num_frames=8, markov_order=markov_order, layers=(layer,))
    images_BCHW = torch.rand(16, 3, 64, 64)
    one_frame = images_BCHW.nbytes
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        policy.render(images_BCHW, generator=seeded())
    held, peak = 0, 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 8 * one_frame < peak <= (8 + most) * one_frame


def test_a_missing_generator_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"generator must be a torch\.Generator on the CPU"):
        VIDEO.render(IMAGES_BCHW, generator=None)


def test_a_draw_serves_its_own_policy_and_shape_only() -> None:
    draw = VIDEO.draw((4, 1, 16, 16), generator=seeded())
    assert torch.equal(VIDEO.corrupt(IMAGES_BCHW, draw), VIDEO.render(IMAGES_BCHW, generator=seeded()))
    with pytest.raises(PolicyError, match="images of the same shape"):
        VIDEO.corrupt(IMAGES_BCHW[:2], draw)
    with pytest.raises(PolicyError, match="same policy"):
        Policy(num_frames=3).corrupt(IMAGES_BCHW, draw)


@pytest.mark.parametrize("op", ["gaussian_blur", "elastic", "heat", "crack"])
def test_rendering_under_autocast_is_exact(op: str) -> None:
    policy = Policy(num_frames=3, layers=(Layer(op=op, magnitude=0.1, frames=(1, 2)),))
    expected_BTCHW = policy.render(IMAGES_BCHW, generator=seeded())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(policy.render(IMAGES_BCHW, generator=seeded()), expected_BTCHW)


def test_policies_and_layers_are_values() -> None:
    layer = VIDEO.layers[0]
    assert hash(VIDEO) == hash(replace(VIDEO, provenance={"n": 1}))
    assert len({VIDEO, replace(VIDEO, provenance={"n": 1}), Policy.image_only()}) == 2
    with pytest.raises(FrozenInstanceError):
        VIDEO.num_frames = 4  # type: ignore[misc]
    assert replace(layer, magnitude=-0.0).magnitude == 0
    assert type(Layer(op="contrast", magnitude=1, frames=(1, 1)).magnitude) is float
    with pytest.raises(PolicyError, match=r"layer\.magnitude\.area must be"):
        replace(layer, magnitude=2.0)
    with pytest.raises(PolicyError, match="layers must be Layer objects"):
        Policy(num_frames=3, layers=({"op": "erase"},))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=r"layers\[0\].frames"):
        replace(VIDEO, num_frames=2)


def test_the_provenance_given_cannot_change_the_policys() -> None:
    given_provenance = {"seeds": [1, 2]}
    policy = replace(VIDEO, provenance=given_provenance)
    given_provenance["seeds"].append(3)
    assert policy.provenance == {"seeds": [1, 2]}


def test_a_policy_describes_itself_in_one_line() -> None:
    assert Policy.image_only().describe() == "image-only"
    assert VIDEO.describe() == "T=3 order=1 fresh weight=0.1: erase area=0.3 linear 1-2 p=0.5"
    assert Policy(num_frames=2, frame_loss_until=0.5).describe().endswith("until=0.5: no layers")


def test_rendering_takes_a_small_part_of_a_training_step() -> None:
    """A tiny model's step takes about 50 ms on one thread; the best of several runs, for shared machines."""
    layers = tuple(
        Layer(op=op, magnitude=magnitude, frames=(1, 7))
        for op, magnitude in (("gaussian_blur", 0.1), ("erase", 0.3), ("rotate", 10.0))
    )
    policy = Policy(num_frames=8, layers=layers)
    images_BCHW = structured_images((32, 1, 16, 16), seed=0)
    durations = []
    for seed in range(8):
        start = time.perf_counter()
        policy.render(images_BCHW, generator=seeded(seed))
        durations.append(time.perf_counter() - start)
    assert min(durations) < 0.025


@pytest.mark.slow
def test_importing_the_policy_needs_neither_ray_nor_optuna_nor_kornia() -> None:
    program = "import sys, autopv.policy; print({'ray', 'optuna', 'kornia', 'torchvision'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize(("markov_order", "randomness"), [(1, "fresh"), (3, "shared")])
def test_rendering_is_the_same_inside_a_compiled_function(markov_order: int, randomness: str) -> None:
    layers = tuple(Layer(op=op, magnitude=0.1, frames=(1, 3)) for op in ("gaussian_blur", "erase", "gaussian_noise"))
    policy = Policy(num_frames=4, markov_order=markov_order, randomness=randomness, layers=layers)

    def doubled(images_BCHW: Tensor, *, seed: int) -> Tensor:
        return 2 * policy.render(images_BCHW, generator=seeded(seed))

    compiled = torch.compile(doubled, backend="eager")
    for seed in (1, 2):
        torch.testing.assert_close(compiled(IMAGES_BCHW, seed=seed), doubled(IMAGES_BCHW, seed=seed))
    torch.compiler.reset()


def test_a_part_has_the_draw_of_its_own_place_in_every_layer() -> None:
    layers = tuple(Layer(op=op, magnitude=0.2, frames=(1, 2), probability=0.5) for op in ("erase", "gaussian_noise"))
    policy = Policy(num_frames=3, layers=layers)
    whole_BTCHW = policy.render(IMAGES_BCHW, generator=seeded())
    part_BTCHW = policy.render(IMAGES_BCHW[1:3], generator=seeded(), part=Part(1, 4))
    assert torch.equal(part_BTCHW, whole_BTCHW[1:3])
    assert not torch.equal(part_BTCHW, policy.render(IMAGES_BCHW[1:3], generator=seeded(), part=Part(0, 4)))


@pytest.mark.parametrize("part", [Part(-1, 4), Part(3, 4), Part(0, 1)])
def test_a_part_that_sticks_out_of_its_batch_is_refused(part: Part) -> None:
    policy = Policy(num_frames=2, layers=(Layer(op="erase", magnitude=0.2, frames=(1, 1)),))
    with pytest.raises(PolicyError, match="0 <= first <= total - images"):
        policy.render(IMAGES_BCHW[:2], generator=seeded(), part=part)
