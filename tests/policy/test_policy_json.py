"""Policies in and out of JSON: nothing is lost, nothing is guessed, and bad files are refused quickly."""

import copy
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from policy_strategies import policies

from autopv.errors import PolicyError
from autopv.policy import Layer, Policy

VALID: dict[str, Any] = {
    "format_version": 1,
    "num_frames": 6,
    "markov_order": 1,
    "randomness": "fresh",
    "frame_loss_weight": 0.1,
    "frame_loss_until": 1.0,
    "layers": [
        {
            "op": "gaussian_blur",
            "magnitude": {"sigma": 0.06},
            "curve": "cosine",
            "frames": [1, 5],
            "probability": 1.0,
        },
        {"op": "erase", "magnitude": {"area": 0.4}, "curve": "linear", "frames": [2, 4], "probability": 0.7},
    ],
    "provenance": {"metric": "fd_lite0", "n": 512, "seeds": [1, 2], "excess": None},
}


@settings(deadline=None, max_examples=100)
@given(policies())
def test_a_policy_survives_its_dictionary(policy: Policy) -> None:
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again == policy
    assert again.provenance == policy.provenance
    assert again.digest == policy.digest


@settings(deadline=None, max_examples=25)
@given(policies())
def test_a_policy_survives_its_file(tmp_path_factory: pytest.TempPathFactory, policy: Policy) -> None:
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    policy.save(path)
    assert Policy.load(path) == policy
    assert Policy.load(path).provenance == policy.provenance


def test_the_documented_example_is_read() -> None:
    policy = Policy.from_dict(VALID)
    assert policy.layers[1] == Layer(op="erase", magnitude=0.4, frames=(2, 4), probability=0.7)
    assert policy.to_dict() == VALID


def test_keys_left_out_take_their_defaults() -> None:
    policy = Policy.from_dict({"format_version": 1, "num_frames": 1, "layers": []})
    assert policy == Policy.image_only()


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    mapping = copy.deepcopy(VALID)
    change(mapping)
    return mapping


BAD_VALUES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("unknown key", lambda p: p.update(num_frame=3), "Did you mean 'num_frames'"),
    ("unknown layer key", lambda p: p["layers"][1].update(frame=3), r"layers\[1\] has an unknown key 'frame'"),
    ("missing key", lambda p: p.pop("num_frames"), "lacks the key 'num_frames'"),
    ("missing layer key", lambda p: p["layers"][0].pop("frames"), r"layers\[0\] lacks the key 'frames'"),
    ("newer version", lambda p: p.update(format_version=2, novelty=1), "format_version 2 is newer .* upgrade autopv"),
    ("no version", lambda p: p.pop("format_version"), "lacks the key 'format_version'"),
    ("bool version", lambda p: p.update(format_version=True), "format_version must be 1, got True"),
    ("string version", lambda p: p.update(format_version="1"), "format_version must be 1, got '1'"),
    ("zero version", lambda p: p.update(format_version=0), "format_version must be 1, got 0"),
    ("bool for int", lambda p: p.update(num_frames=True), r"num_frames must be a whole number in \[1, 64\], got True"),
    ("float for int", lambda p: p.update(num_frames=6.0), "num_frames must be a whole number"),
    ("too many frames", lambda p: p.update(num_frames=65), "num_frames must be a whole number"),
    ("null", lambda p: p.update(num_frames=None), "num_frames must be a whole number .* got None"),
    (
        "order past the end",
        lambda p: p.update(markov_order=6),
        r"markov_order must be a whole number in \[1, 5\], got 6",
    ),
    ("shared chain", lambda p: p.update(randomness="shared"), "markov_order = num_frames - 1 = 5, got markov_order 1"),
    ("unknown randomness", lambda p: p.update(randomness="freshly"), "Did you mean 'fresh'"),
    ("randomness by number", lambda p: p.update(randomness=1), "randomness must be one of the known names, got 1"),
    (
        "zero weight",
        lambda p: p.update(frame_loss_weight=0),
        r"frame_loss_weight must be a number in \(0.0, 10.0\], got 0",
    ),
    ("NaN weight", lambda p: p.update(frame_loss_weight=float("nan")), "frame_loss_weight must be a number"),
    ("bool weight", lambda p: p.update(frame_loss_weight=True), "frame_loss_weight must be a number .* got True"),
    ("string weight", lambda p: p.update(frame_loss_weight="0.1"), "frame_loss_weight must be a number .* got '0.1'"),
    ("infinite until", lambda p: p.update(frame_loss_until=float("inf")), "frame_loss_until must be a number"),
    ("huge integer", lambda p: p.update(frame_loss_weight=10**400), "frame_loss_weight must be a number"),
    ("layers not a list", lambda p: p.update(layers={"op": "erase"}), "layers must be a list"),
    ("layer not an object", lambda p: p.update(layers=["erase"]), r"layers\[0\] must be an object"),
    ("too many layers", lambda p: p.update(layers=p["layers"] * 9), "at most 16 objects, got 18"),
    (
        "unknown op",
        lambda p: p["layers"][0].update(op="gausian_blur"),
        r"layers\[0\].op .* Did you mean 'gaussian_blur'",
    ),
    (
        "op not a string",
        lambda p: p["layers"][0].update(op=["erase"]),
        r"layers\[0\].op must be one of the known names",
    ),
    ("magnitude bare", lambda p: p["layers"][0].update(magnitude=0.06), r"layers\[0\].magnitude must be an object"),
    (
        "another op's magnitude",
        lambda p: p["layers"][0].update(magnitude={"area": 0.1}),
        r"layers\[0\].magnitude has an unknown key 'area'",
    ),
    (
        "two magnitudes",
        lambda p: p["layers"][0]["magnitude"].update(block=0.1),
        r"layers\[0\].magnitude has an unknown key 'block'",
    ),
    (
        "magnitude too large",
        lambda p: p["layers"][1]["magnitude"].update(area=3.0),
        r"layers\[1\].magnitude.area must be a number in \[0.005, 0.9\], got 3.0 \(erase: share of",
    ),
    ("magnitude below the bounds", lambda p: p["layers"][1]["magnitude"].update(area=1e-5), r"magnitude.area must be"),
    ("magnitude negative", lambda p: p["layers"][1]["magnitude"].update(area=-0.1), r"layers\[1\].magnitude.area must"),
    ("magnitude bool", lambda p: p["layers"][1]["magnitude"].update(area=False), r"magnitude.area must .* got False"),
    (
        "magnitude NaN",
        lambda p: p["layers"][1]["magnitude"].update(area=float("nan")),
        "magnitude.area must .* got nan",
    ),
    ("unknown curve", lambda p: p["layers"][0].update(curve="cosin"), r"layers\[0\].curve .* Did you mean 'cosine'"),
    (
        "frames reach the image",
        lambda p: p["layers"][0].update(frames=[1, 6]),
        r"layers\[0\].frames .* <= 5 \(frame 6 is",
    ),
    (
        "frames reversed",
        lambda p: p["layers"][0].update(frames=[3, 2]),
        r"layers\[0\].frames must be two whole numbers",
    ),
    ("frames bool", lambda p: p["layers"][0].update(frames=[True, 2]), r"layers\[0\].frames must be two whole numbers"),
    ("frames float", lambda p: p["layers"][0].update(frames=[1.0, 2]), r"layers\[0\].frames must be two whole numbers"),
    (
        "frames of three",
        lambda p: p["layers"][0].update(frames=[1, 2, 3]),
        r"layers\[0\].frames must be two whole numbers",
    ),
    ("frames text", lambda p: p["layers"][0].update(frames="12"), r"layers\[0\].frames must be two whole numbers"),
    ("probability above one", lambda p: p["layers"][1].update(probability=1.5), r"layers\[1\].probability must be"),
    ("probability bool", lambda p: p["layers"][1].update(probability=True), r"layers\[1\].probability must be"),
    ("layers on the image", lambda p: p.update(num_frames=1), "layers must be empty where num_frames is 1"),
    ("provenance a list", lambda p: p.update(provenance=[1]), "provenance must be an object or null"),
    ("provenance infinite", lambda p: p["provenance"].update(n=float("inf")), "provenance.n must hold plain JSON"),
]


@pytest.mark.parametrize(("change", "message"), [pytest.param(c, m, id=name) for name, c, m in BAD_VALUES])
def test_a_value_that_breaks_its_rule_is_named_with_its_place(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.from_dict(changed(change), where="mine.json")
    assert str(caught.value).startswith("mine.json")


@pytest.mark.parametrize("value", [None, [], "policy", 3, {}])
def test_what_is_no_policy_at_all_is_refused(value: Any) -> None:
    with pytest.raises(PolicyError, match=r"mine\.json"):
        Policy.from_dict(value, where="mine.json")


VALID_TEXT = json.dumps(VALID)
BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON at line 1, column 1"),
    "cut off": (VALID_TEXT[:-40].encode(), "not JSON at line 1"),
    "trailing comma": (b'{"format_version": 1,}', "not JSON at line 1"),
    "not utf-8": (b'{"format_version": "\xff"}', "UTF-8 text, but byte 20 is not"),
    "utf-16": (VALID_TEXT.encode("utf-16"), "UTF-8"),
    "nan": (VALID_TEXT.replace("0.06", "NaN").encode(), "every number must be finite, got NaN"),
    "minus infinity": (VALID_TEXT.replace("0.06", "-Infinity").encode(), "finite, got -Infinity"),
    "overflowing": (VALID_TEXT.replace("0.06", "1e999").encode(), "sigma must be a number"),
    "same key twice": (VALID_TEXT.replace('"curve"', '"op"').encode(), "key 'op' is stated more than once"),
    "same top key twice": (b'{"num_frames": 1, "num_frames": 2}', "key 'num_frames' is stated more than once"),
    "deep lists": (b"[" * 100_000, "nested deeper"),
    "deep objects": (b'{"a":' * 20_000, "nested deeper"),
    "deep provenance": (VALID_TEXT.replace("[1, 2]", "[" * 50 + "]" * 50).encode(), "more than 20 deep"),
    "huge": (b" " * (2 << 20) + VALID_TEXT.encode(), "at most 128 KiB"),
    "huge digits": (b'{"num_frames": ' + b"9" * 100_000 + b"}", "more digits"),
    "many digits": (
        VALID_TEXT.replace('"num_frames": 6', '"num_frames": ' + "9" * 4000).encode(),
        "num_frames must be",
    ),
    "many keys": (json.dumps({f"key {i}": i for i in range(6_000)}).encode(), "unknown key 'key 0'"),
    "many equal keys": (b"{" + b",".join([b'"a":1'] * 16_000) + b"}", "key 'a' is stated more than once"),
    "many layers": (json.dumps({**VALID, "layers": [{}] * 30_000}).encode(), "at most 16"),
    "long op": (VALID_TEXT.replace("gaussian_blur", "x" * 100_000).encode(), r"layers\[0\].op must be"),
    "long key": (VALID_TEXT.replace("num_frames", "num_frames" * 10_000).encode(), "unknown key 'num_frames"),
    "a list": (b"[1, 2, 3]", "must be an object"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_quickly_and_shortly(name: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[name]
    path = tmp_path / "policy.json"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.load(path)
    assert time.perf_counter() - start < 2
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="nothing there"):
        Policy.load(tmp_path / "policy.json")
    with pytest.raises(PolicyError, match="a folder"):
        Policy.load(tmp_path)
    with pytest.raises(PolicyError, match="cannot be read: File name too long"):
        Policy.load(tmp_path / ("x" * 5000))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PolicyError, match="something else"):
        Policy.load(tmp_path / "pipe")


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(b"\xef\xbb\xbf" + VALID_TEXT.encode())
    assert Policy.load(tmp_path / "policy.json") == Policy.from_dict(VALID)


def test_saving_overwrites_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    Policy.image_only().save(path)
    before = path.read_bytes()
    with pytest.raises(PolicyError, match="exists and is not overwritten"):
        Policy.from_dict(VALID).save(path)
    assert path.read_bytes() == before
    Policy.from_dict(VALID).save(path, overwrite=True)
    assert Policy.load(path) == Policy.from_dict(VALID)
    assert os.listdir(tmp_path) == ["policy.json"], "no temporary file is left behind"


def test_of_two_writers_at_once_exactly_one_saves(tmp_path: Path) -> None:
    path, saved = tmp_path / "policy.json", []

    def write(weight: float) -> None:
        try:
            Policy(frame_loss_weight=weight).save(path)
            saved.append(weight)
        except PolicyError:
            pass

    writers = [threading.Thread(target=write, args=(0.1 * (i + 1),)) for i in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(saved) == 1
    assert Policy.load(path).frame_loss_weight == saved[0]
    assert os.listdir(tmp_path) == ["policy.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "policy.json"
    Policy.image_only().save(path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PolicyError, match="cannot be written: No space left on device"):
        Policy.from_dict(VALID).save(path, overwrite=True)
    assert Policy.load(path) == Policy.image_only()
    assert os.listdir(tmp_path) == ["policy.json"]


def test_saving_into_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be written: No such file or directory"):
        Policy.image_only().save(tmp_path / "missing" / "policy.json")
