"""What differs between two policies: nothing is missed, nothing is told that changes nothing."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from policy_strategies import policies

from autopv.policy import Layer, Policy
from autopv.policy.diff import diff_lines, provenance_line

BLUR = Layer(op="gaussian_blur", magnitude=0.06, frames=(1, 3))
ERASE = Layer(op="erase", magnitude=0.4, frames=(1, 3))
NOISE = Layer(op="gaussian_noise", magnitude=0.2, frames=(1, 3))


def video(*layers: Layer, num_frames: int = 6, **values: object) -> Policy:
    return replace(Policy(num_frames=num_frames, layers=layers), **values)


@settings(deadline=None, max_examples=150)
@given(policies(), policies())
def test_there_are_lines_exactly_where_the_digests_differ(a: Policy, b: Policy) -> None:
    for first, second in ((a, b), (a, a), (a, a.canonical())):
        lines = diff_lines(first, second)
        assert (lines == []) == (first.digest == second.digest)
        assert len(diff_lines(second, first)) == len(lines)
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(
    ("a", "b", "lines"),
    [
        pytest.param(
            video(BLUR),
            video(BLUR, num_frames=4, frame_loss_weight=0.25, frame_loss_until=0.5),
            ["num_frames: 6 -> 4", "frame_loss_weight: 0.1 -> 0.25", "frame_loss_until: 1 -> 0.5"],
            id="values of the policy",
        ),
        pytest.param(
            video(ERASE),
            video(ERASE, markov_order=5, randomness="shared"),
            ["markov_order: 1 -> 5", "randomness: fresh -> shared"],
            id="order and randomness",
        ),
        pytest.param(
            video(BLUR, ERASE),
            video(BLUR, Layer(op="erase", magnitude=0.25, curve="power", frames=(2, 4), probability=0.5)),
            [
                "layer 2 erase: area 0.4 -> 0.25",
                "layer 2 erase: curve linear -> power",
                "layer 2 erase: frames 1-3 -> 2-4",
                "layer 2 erase: probability 1 -> 0.5",
            ],
            id="values of a layer",
        ),
        pytest.param(
            video(BLUR, ERASE),
            video(NOISE, BLUR, replace(ERASE, magnitude=0.3)),
            ["+ layer 1 gaussian_noise sigma=0.2 linear 1-3", "layer 3 erase: area 0.4 -> 0.3"],
            id="a layer before others",
        ),
        pytest.param(
            video(NOISE, BLUR, ERASE),
            video(NOISE, ERASE),
            ["- layer 2 gaussian_blur sigma=0.06 linear 1-3"],
            id="a layer less",
        ),
        pytest.param(
            video(BLUR, ERASE),
            video(ERASE, BLUR),
            [
                "- layer 1 gaussian_blur sigma=0.06 linear 1-3",
                "+ layer 2 gaussian_blur sigma=0.06 linear 1-3",
            ],
            id="layers in another sequence",
        ),
        pytest.param(
            video(ERASE, replace(ERASE, magnitude=0.2), BLUR),
            video(replace(ERASE, magnitude=0.2), BLUR),
            ["- layer 1 erase area=0.4 linear 1-3"],
            id="of equal ops the most alike are partners",
        ),
        pytest.param(
            Policy(),
            video(BLUR),
            ["num_frames: 1 -> 6", "+ layer 1 gaussian_blur sigma=0.06 linear 1-3"],
            id="from image-only",
        ),
        pytest.param(
            video(replace(NOISE, magnitude=0.3), replace(NOISE, magnitude=0.4)),
            video(replace(NOISE, magnitude=0.5)),
            [],
            id="what merges into one",
        ),
    ],
)
def test_each_difference_has_its_line(a: Policy, b: Policy, lines: list[str]) -> None:
    assert diff_lines(a, b) == lines


def test_many_equal_layers_are_compared_quickly() -> None:
    many = [replace(ERASE, magnitude=0.1 + i / 100) for i in range(16)]
    assert diff_lines(video(*many), video(*many[:8], *many[9:])) == ["- layer 9 erase area=0.18 linear 1-3"]


def test_provenance_is_told_apart() -> None:
    a = video(BLUR, provenance={"metric": "fd_lite0", "n": 512, "by": "x"})
    b = video(BLUR, provenance={"metric": "fid", "n": 512, "seeds\n": [1]})
    assert diff_lines(a, b) == []
    assert provenance_line(a, a) is None
    assert provenance_line(video(BLUR), replace(b, provenance={})) is None
    assert provenance_line(a, b) == "provenance (no part of the policy) differs in by, metric, 'seeds\\n'"


def test_a_line_names_some_of_many_keys_of_the_provenance() -> None:
    line = provenance_line(video(BLUR), video(BLUR, provenance={f"key{i}": None for i in range(1000)}))
    assert line is not None
    assert "key0, key1, " in line
    assert line.endswith(" and 992 more")
