"""A policy's line of text: nothing is lost in it, and what cannot be read back is quoted."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import policies

from autopv.errors import PolicyError
from autopv.policy import Layer, Policy
from autopv.policy.text import number_text

LINE = "T=6 order=1 fresh weight=0.1 until=0.5: gaussian_blur sigma=0.06 cosine 1-5 > erase area=0.4 linear 2-4 p=0.7"


@settings(deadline=None, max_examples=200)
@given(policies())
def test_a_policy_survives_its_line(policy: Policy) -> None:
    line = policy.describe()
    assert Policy.parse(line) == policy
    assert line.isprintable()


def test_a_line_says_everything() -> None:
    blur = Layer(op="gaussian_blur", magnitude=0.06, curve="cosine", frames=(1, 5))
    erase = Layer(op="erase", magnitude=0.4, frames=(2, 4), probability=0.7)
    policy = Policy(num_frames=6, frame_loss_until=0.5, layers=(blur, erase))
    assert policy.describe() == LINE
    assert Policy.parse(f"  {LINE.replace(' > ', '>')} \n") == policy, "the space around words is no part of the line"


@pytest.mark.parametrize(
    ("policy", "line"),
    [
        (Policy(), "image-only"),
        (Policy(frame_loss_weight=3), "T=1 order=1 fresh weight=3: no layers"),
        (Policy(num_frames=1, randomness="shared"), "T=1 order=1 shared weight=0.1: no layers"),
        (Policy(num_frames=3, markov_order=2), "T=3 order=2 fresh weight=0.1: no layers"),
        (Policy(frame_loss_weight=0.1 + 0.2), "T=1 order=1 fresh weight=0.30000000000000004: no layers"),
        (Policy(frame_loss_weight=5e-324), "T=1 order=1 fresh weight=5e-324: no layers"),
    ],
)
def test_policies_without_layers_have_lines_too(policy: Policy, line: str) -> None:
    assert policy.describe() == line
    assert Policy.parse(line) == policy


def test_the_provenance_is_no_part_of_the_line() -> None:
    policy = replace(Policy.parse(LINE), provenance={"n": 512})
    assert policy.describe() == LINE
    assert Policy.parse(LINE).provenance is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_short_and_exact(value: float) -> None:
    assert float(number_text(value)) == value
    assert len(number_text(value)) <= len(repr(value))


BAD_LINES = {
    "": "must be 'image-only' or read 'T=.. order=",
    "image-onl": "got 'image-onl'",
    "T=6 order=1 fresh weight=0.1": "must be 'image-only' or read 'T=.. order=",
    "T=6 order=1 weight=0.1: no layers": "must be 'image-only' or read",
    LINE.replace("T=6", "t=6"): "must have T=.. where it has 't=6'",
    LINE.replace("order", "ordr"): "must have order=.. where it has 'ordr=1'",
    LINE.replace("weight", "w"): "must have weight=.. where it has 'w=0.1'",
    LINE.replace("until", "p"): "must have until=.. where it has 'p=0.5'",
    LINE.replace("T=6", "T=six"): r"num_frames must be a whole number in \[1, 64\], got 'six'",
    LINE.replace("T=6", "T=٦"): "num_frames must be a whole number .* got '٦'",
    LINE.replace("T=6", "T=" + "9" * 5000): "num_frames must be a whole number",
    LINE.replace("order=1", "order=6"): r"markov_order must be a whole number in \[1, 5\], got 6",
    LINE.replace("fresh", "frsh"): "randomness must .* Did you mean 'fresh'",
    LINE.replace("weight=0.1", "weight=nan"): "frame_loss_weight must be a number .* got 'nan'",
    LINE.replace("weight=0.1", "weight=1e999"): "frame_loss_weight must be a number .* got inf",
    LINE.replace("weight=0.1", "weight=1_0"): "frame_loss_weight must be a number .* got '1_0'",
    LINE.replace("until=0.5", "until=0"): r"frame_loss_until must be a number in \(0.0, 1.0\], got 0.0",
    LINE.replace("erase", "eras"): r"layers\[1\].op .* Did you mean 'erase'",
    LINE.replace("area", "aera"): r"layers\[1\].magnitude has an unknown key 'aera'. Did you mean 'area'",
    LINE.replace("area=", "area"): r"layers\[1\] must read 'OP NAME=MAGNITUDE .* but holds 'area0.4'",
    LINE.replace("area=0.4", "area=4"): r"layers\[1\].magnitude.area must be a number in \[0.005, 0.9\], got 4.0",
    LINE.replace("area=0.4", "area=lots"): r"layers\[1\].magnitude.area must be a number .* got 'lots'",
    LINE.replace("cosine", "cosin"): r"layers\[0\].curve .* Did you mean 'cosine'",
    LINE.replace("2-4", "2-"): r"layers\[1\] must read 'OP .*, but holds '2-'",
    LINE.replace("2-4", "4-2"): r"layers\[1\].frames must be two whole numbers .* got \[4, 2\]",
    LINE.replace("2-4", "2-6"): r"layers\[1\].frames must .* \(frame 6 is the image\)",
    LINE.replace("p=0.7", "0.7"): r"layers\[1\] must have p=.. where it has '0.7'",
    LINE.replace("p=0.7", "p=7"): r"layers\[1\].probability must be a number in \[0.0, 1.0\], got 7.0",
    LINE.replace("linear ", ""): r"layers\[1\] must read 'OP .*, but holds 'p=0.7'",
    LINE.replace(" > ", " "): r"layers\[0\] must read 'OP NAME=MAGNITUDE CURVE .*', got 'gaussian_blur",
    LINE + " > ": r"layers\[2\] must read .* got ''",
    LINE.partition(":")[0] + ":" + " > ".join(["erase area=0.4 linear 2-4"] * 17): "at most 16 objects, got 17",
    LINE.partition(":")[0] + ": no layer": r"layers\[0\] must read .* got 'no layer'",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_line_that_cannot_be_read_is_quoted_at_its_place(line: str) -> None:
    with pytest.raises(PolicyError, match=BAD_LINES[line]) as caught:
        Policy.parse(line, where="trials.log:7")
    assert str(caught.value).startswith("trials.log:7")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [None, 3, b"image-only", {"num_frames": 1}])
def test_what_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(PolicyError, match="policy text must be a line of text"):
        Policy.parse(value)


@given(st.text(max_size=80) | st.from_regex(r"T=[0-9]{1,3} order=[0-9] (fresh|shared) weight=[0-9.e+-]{1,9}: .{0,60}"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        policy = Policy.parse(text)
    except PolicyError as error:
        message = str(error)
    else:
        assert Policy.parse(policy.describe()) == policy
        return
    assert message.startswith("policy text")
    assert message.isprintable()
