"""The canonical form and the digest: what cannot matter does not count, and everything else does."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from policy_strategies import policies

from autopv.policy import Layer, Policy
from autopv.testing.op_suite import defect_masks, structured_images

BLUR = Layer(op="gaussian_blur", magnitude=0.06, frames=(1, 4))
NOISE = Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 4))
ERASE = Layer(op="erase", magnitude=0.3, frames=(1, 4))
PIXELATE = Layer(op="pixelate", magnitude=0.2, frames=(1, 4))
CONTRAST = Layer(op="contrast", magnitude=0.5, frames=(1, 4))


def video(*layers: Layer, markov_order: int = 1, randomness: str = "fresh", num_frames: int = 5) -> Policy:
    return Policy(num_frames=num_frames, markov_order=markov_order, randomness=randomness, layers=layers)


@settings(deadline=None, max_examples=100)
@given(policies())
def test_the_canonical_form_is_its_own_and_keeps_the_digest(policy: Policy) -> None:
    canonical = policy.canonical()
    assert canonical.canonical() == canonical
    assert canonical.digest == policy.digest
    assert canonical.provenance == policy.provenance
    assert len(policy.digest) == 64
    assert policy.digest.startswith(policy.short_digest)
    assert len(policy.short_digest) == 8


@settings(deadline=None, max_examples=40)
@given(policies(max_frames=5))
def test_the_canonical_form_renders_the_same_distribution(policy: Policy) -> None:
    """Compared by its mean over many draws of one small image."""
    canonical = policy.canonical()
    if policy == canonical:
        return
    images_BCHW = structured_images((1, 1, 8, 8), seed=0).expand(2048, -1, -1, -1).contiguous()
    masks_BHW = defect_masks((1, 8, 8)).expand(2048, -1, -1)
    donors = structured_images((4, 1, 8, 8), seed=1)
    frames_BTCHW, canonical_BTCHW = (
        p.render(images_BCHW, generator=torch.Generator().manual_seed(seed), masks_BHW=masks_BHW, donors=donors)
        for seed, p in enumerate((policy, canonical))
    )
    if canonical == Policy.image_only():
        for frame_BCHW in frames_BTCHW.unbind(dim=1):
            assert torch.equal(frame_BCHW, images_BCHW)
        return
    spread_TCHW = ((frames_BTCHW.var(dim=0) + canonical_BTCHW.var(dim=0)) / len(images_BCHW)).sqrt()
    difference_TCHW = (frames_BTCHW.mean(dim=0) - canonical_BTCHW.mean(dim=0)).abs()
    assert bool((difference_TCHW <= 6.5 * spread_TCHW + 1e-4).all())


@pytest.mark.parametrize(
    "policy",
    [
        Policy(num_frames=5),
        Policy(num_frames=1, frame_loss_weight=3.0, frame_loss_until=0.5),
        video(replace(BLUR, magnitude=0.0)),
        video(replace(NOISE, probability=0.0), replace(BLUR, magnitude=0.0), markov_order=4, randomness="shared"),
    ],
)
def test_without_effective_layers_it_is_image_only(policy: Policy) -> None:
    assert policy.canonical() == Policy.image_only()
    assert policy.is_image_only
    assert policy.digest == Policy.image_only().digest


EQUAL: dict[str, tuple[Policy, Policy]] = {
    "order of an exact deterministic layer": (video(BLUR, markov_order=3), video(BLUR)),
    "randomness where nothing is random": (
        video(BLUR, PIXELATE, markov_order=4, randomness="shared"),
        video(BLUR, PIXELATE, markov_order=4),
    ),
    "layer without magnitude": (video(NOISE, replace(BLUR, magnitude=0.0)), video(NOISE)),
    "layer without chance": (video(NOISE, replace(BLUR, probability=0.0)), video(NOISE)),
    "equal layers of an exact op": (
        video(NOISE, replace(NOISE, magnitude=0.4)),
        video(replace(NOISE, magnitude=0.5)),
    ),
    "curve without values between": (
        video(replace(ERASE, frames=(2, 2), curve="power")),
        video(replace(ERASE, frames=(2, 2), curve="cosine")),
    ),
    "order where every source is still the image": (
        video(replace(ERASE, frames=(1, 2)), markov_order=2),
        video(replace(ERASE, frames=(1, 2)), markov_order=4),
    ),
    "randomness of one corrupted frame": (
        video(replace(ERASE, frames=(1, 1)), markov_order=4, randomness="shared"),
        video(replace(ERASE, frames=(1, 1))),
    ),
    "contrast on full frames only": (
        video(replace(CONTRAST, frames=(2, 2)), replace(CONTRAST, frames=(2, 2))),
        video(replace(CONTRAST, frames=(2, 2), magnitude=0.75)),
    ),
    "provenance": (video(BLUR), replace(video(BLUR), provenance={"n": 512})),
}


@pytest.mark.parametrize("name", EQUAL)
def test_what_cannot_matter_does_not_count(name: str) -> None:
    first, second = EQUAL[name]
    assert first.canonical() == second.canonical()
    assert first.digest == second.digest


DIFFERENT: dict[str, tuple[Policy, Policy]] = {
    "order of a random layer": (video(NOISE), video(NOISE, markov_order=2)),
    "order of an approximate layer": (video(PIXELATE), video(PIXELATE, markov_order=2)),
    "order that still reaches a corrupted frame": (
        video(replace(ERASE, frames=(1, 3)), markov_order=2),
        video(replace(ERASE, frames=(1, 3)), markov_order=4),
    ),
    "order of two layers": (video(BLUR, CONTRAST), video(BLUR, CONTRAST, markov_order=4)),
    "randomness": (video(NOISE, markov_order=4), video(NOISE, markov_order=4, randomness="shared")),
    "the layers' sequence": (video(BLUR, NOISE), video(NOISE, BLUR)),
    "layers apart": (video(NOISE, BLUR, NOISE), video(NOISE, NOISE, BLUR)),
    "contrast on a curve": (video(CONTRAST, CONTRAST), video(replace(CONTRAST, magnitude=0.75))),
    "two coins": (
        video(replace(NOISE, probability=0.5), replace(NOISE, probability=0.5)),
        video(replace(NOISE, probability=0.5, magnitude=0.18**0.5)),
    ),
    "two boxes": (video(ERASE, ERASE), video(replace(ERASE, magnitude=0.51))),
    "weight": (video(BLUR), replace(video(BLUR), frame_loss_weight=0.2)),
    "until": (video(BLUR), replace(video(BLUR), frame_loss_until=0.5)),
    "length": (video(BLUR), video(BLUR, num_frames=6)),
    "curve": (video(BLUR), video(replace(BLUR, curve="power"))),
    "frames": (video(BLUR), video(replace(BLUR, frames=(2, 4)))),
    "magnitude": (video(BLUR), video(replace(BLUR, magnitude=0.061))),
    "probability": (video(BLUR), video(replace(BLUR, probability=0.9))),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_matters_counts(name: str) -> None:
    first, second = DIFFERENT[name]
    assert first.digest != second.digest


def test_layers_whose_merger_would_leave_the_bounds_stay_two() -> None:
    policy = video(replace(NOISE, magnitude=0.9), replace(NOISE, magnitude=0.9))
    assert len(policy.canonical().layers) == 2


def test_the_digest_is_the_same_in_every_process() -> None:
    """A golden value: a digest names run folders and records, so changing it needs a new format version."""
    assert Policy.image_only().short_digest == "44430463"
    assert video(BLUR, ERASE).short_digest == "aa75bd0e"
