"""Thousands of damaged policy files: each is read or refused by one line that names the place, quickly, and nothing
else happens.

The files are the same in every run: a policy of a seeded generator, damaged as text or as a JSON value.
"""

import contextlib
import json
import math
import random
import re
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autopv.errors import PolicyError
from autopv.policy import Layer, Policy, json_io
from autopv.policy.curves import CURVES
from autopv.policy.ops import get_op, op_names

NUM_FILES = 10_000
MAX_LOAD_S = 0.05
MAX_MESSAGE = 1500
"""Characters beside the file's name: an error fits on a screen, whatever the file holds. All ops' names are a third."""
MAX_MEMORY = 4 << 20
"""Bytes, of which the largest files take some hundred thousand themselves."""

MAX_VALUES, MAX_BYTES = 2000, 100_000
"""What has grown beyond is damaged no further: the time should go into reading."""

Rng = random.Random
KEYS = (*json_io.REQUIRED_KEYS, *json_io.OPTIONAL_KEYS)
LAYER_KEYS = (*json_io.REQUIRED_LAYER_KEYS, *json_io.OPTIONAL_LAYER_KEYS)


# --- Valid files ------------------------------------------------------------------------------------------------------


def some_policy(rng: Rng) -> dict[str, Any]:
    """The JSON object of some valid policy."""
    num_frames = rng.randint(1, 10)
    shared = rng.random() < 0.3
    return Policy(
        num_frames=num_frames,
        markov_order=max(1, num_frames - 1) if shared else rng.randint(1, max(1, num_frames - 1)),
        randomness="shared" if shared else "fresh",
        frame_loss_weight=rng.choice([0.1, 10.0 ** rng.uniform(-6, 1)]),
        frame_loss_until=rng.choice([1.0, rng.uniform(1e-9, 1)]),
        layers=tuple(some_layer(rng, num_frames) for _ in range(rng.randint(0, 5))) if num_frames > 1 else (),
        provenance=rng.choice([None, {"metric": "fd_lite0", "n": 512, "seeds": [1, 2, [3]], "é\n": {"": None}}]),
    ).to_dict()


def some_layer(rng: Rng, num_frames: int) -> Layer:
    op = get_op(rng.choice(op_names()))
    first = rng.randint(1, num_frames - 1)
    return Layer(
        op=op.name,
        magnitude=rng.choice([0.0, op.low, op.high, rng.uniform(op.low, op.high)]),
        curve=rng.choice(CURVES),
        frames=(first, rng.randint(first, num_frames - 1)),
        probability=rng.choice([1.0, 0.0, rng.random()]),
    )


# --- Damage to the JSON value -----------------------------------------------------------------------------------------


def nested(rng: Rng) -> Any:
    value: Any = rng.choice([0, "x", {}, []])
    for _ in range(rng.choice([3, 19, 21, 200])):
        value = [value] if rng.random() < 0.5 else {rng.choice(["a", "\u202e", "layers"]): value}
    return value


def bushy(rng: Rng) -> Any:
    """Few levels, many values in each."""
    value: Any = "leaf " * rng.randint(1, 20)
    for _ in range(rng.randint(1, 4)):
        value = [value] * 6 if rng.random() < 0.5 else {f"key {i}": value for i in range(6)}
    return value


STRANGE: list[Callable[[Rng], Any]] = [
    lambda rng: rng.choice([None, True, False, 0, 1, -1, 2, 63, 64, 65, 0.5, -0.0, 1e-300, 1e300, 5e-324]),
    lambda rng: rng.choice([2**31, 2**63, -(2**63) - 1, 2**64, 10**30]),
    lambda rng: rng.choice([math.nan, math.inf, -math.inf]),
    lambda rng: rng.choice(["", "1", "NaN", "gaussian_blu", "ERASE", "linear ", "__class__", "os.system('ls')"]),
    lambda rng: rng.choice(["\x00", "\x1b[31m", "\ud800", "\u202e\u200b", "é" * 30, "𝔘", "\n" * 99, "x" * 10**5]),
    lambda rng: rng.choice([[], {}, [[]], [1, 2], [2, 1], [1, 2, 3], [True, 2], [1.0, 2.0], {"op": "erase"}]),
    lambda rng: [rng.randint(-9, 99) for _ in range(rng.choice([2, 2, 2, 50, 5000]))],
    nested,
    bushy,
]


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value inside the value."""
    entries = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, item in entries:
        yield value, key
        yield from nodes(item)


def containers(value: Any, kind: type) -> list[Any]:
    found = [value] if isinstance(value, kind) else []
    return found + [holder[key] for holder, key in nodes(value) if isinstance(holder[key], kind)]


def replace_value(rng: Rng, policy: dict[str, Any]) -> None:
    holder, key = rng.choice(list(nodes(policy)))
    holder[key] = rng.choice(STRANGE)(rng)


def swap_values(rng: Rng, policy: dict[str, Any]) -> None:
    (a, i), (b, j) = rng.choices(list(nodes(policy)), k=2)
    # Copies: swapping a value with one inside it would make an endless one.
    a[i], b[j] = json.loads(json.dumps(b[j])), json.loads(json.dumps(a[i]))


def rename_key(rng: Rng, policy: dict[str, Any]) -> None:
    holder = rng.choice([found for found in containers(policy, dict) if found])
    name = rng.choice([*KEYS, *LAYER_KEYS, "sigma", "area", "Op", "layers ", "", "\x7f", "\ud83d", "k" * 10**4])
    holder[name] = holder.pop(rng.choice(list(holder)))


def drop_value(rng: Rng, policy: dict[str, Any]) -> None:
    holder, key = rng.choice(list(nodes(policy)))
    del holder[key]


def repeat_values(rng: Rng, policy: dict[str, Any]) -> None:
    holder = rng.choice(containers(policy, list) or [[]])
    holder += holder * rng.choice([1, 3, 30])


def shuffle_list(rng: Rng, policy: dict[str, Any]) -> None:
    holder = rng.choice(containers(policy, list) or [[]])
    rng.shuffle(holder)
    holder.reverse()


def change_number(rng: Rng, policy: dict[str, Any]) -> None:
    numbers = [(holder, key) for holder, key in nodes(policy) if type(holder[key]) in (int, float)]
    holder, key = rng.choice(numbers or [({"": 0}, "")])
    value = holder[key]
    holder[key] = rng.choice([-value, value + 1, value * 1000, str(value), value / 1.0, bool(value)])


VALUE_DAMAGE = [replace_value, replace_value, swap_values, rename_key, drop_value, repeat_values, shuffle_list]
VALUE_DAMAGE += [change_number, change_number]


# --- Damage to the text -----------------------------------------------------------------------------------------------

TOKENS = rb"""{ } [ ] , : " \ ' # // /**/ NaN Infinity -Infinity 1e999 -1e999 1e-9999 null true 0x10 1_000 +1 .5 01 -
    "\ud800" "\u0000" "op" {"op":"erase"} !!python/object __import__('os')""".split()
TOKENS += [b"\x00", b"\x1b[2J", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", "\u2028".encode(), "５".encode()]
TOKENS += [b"9" * 400, b"9" * 4200, b"9" * 5000, b"[" * 2000]
PAIR = re.compile(rb'"[^"]*": (?:"[^"]*"|-?[0-9.e-]+)')


def at(rng: Rng, text: bytes) -> int:
    return rng.randint(0, len(text))


def flip_bytes(rng: Rng, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: Rng, text: bytes) -> bytes:
    return text[: at(rng, text)]


def cut_out(rng: Rng, text: bytes) -> bytes:
    start, end = sorted((at(rng, text), at(rng, text)))
    return text[:start] + text[end:]


def insert_token(rng: Rng, text: bytes) -> bytes:
    place = at(rng, text)
    return text[:place] + rng.choice(TOKENS) + text[place:]


def replace_word(rng: Rng, text: bytes) -> bytes:
    """A number, string or name replaced by a token: more often JSON afterwards than by inserting anywhere."""
    words = list(re.finditer(rb'"[^"]*"|-?[0-9.]+|[a-z]+', text))
    word = rng.choice(words)
    return text[: word.start()] + rng.choice(TOKENS) + text[word.end() :]


def repeat_part(rng: Rng, text: bytes) -> bytes:
    start, end = sorted((at(rng, text), at(rng, text)))
    return text[:end] + text[start:end] * rng.choice([1, 2, 100]) + text[end:]


def state_twice(rng: Rng, text: bytes) -> bytes:
    """One key of an object stated a second time."""
    pair = rng.choice(PAIR.findall(text))
    place = rng.choice([match.end() for match in re.finditer(rb"\{", text)] or [0])
    return text[:place] + pair + b", " + text[place:]


def deepen(rng: Rng, text: bytes) -> bytes:
    place, depth = at(rng, text), rng.choice([10, 900, 1100, 50_000])
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return text[:place] + opening * depth + b"1" + closing * depth + text[place:]


def encode(rng: Rng, text: bytes) -> bytes:
    return text.decode(errors="replace").encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7"]))


def many_keys(rng: Rng, text: bytes) -> bytes:
    place = rng.choice([match.end() for match in re.finditer(rb"\{", text)] or [0])
    keys = [b'"key %d":0,' % i for i in range(rng.choice([10, 20_000]))]
    return text[:place] + b"".join(keys) + rng.choice([keys[-1], b""]) + text[place:]


TEXT_DAMAGE = [flip_bytes, cut, cut_out, insert_token, replace_word, replace_word, repeat_part, state_twice, deepen]
TEXT_DAMAGE += [flip_bytes, insert_token, state_twice, encode]


def damaged_files(num_files: int, *, seed: int) -> Iterator[bytes]:
    """That many files, the same for every run: damaged values, damaged texts, and both."""
    rng = Rng(seed)
    for i in range(num_files):
        policy = some_policy(rng)
        if i % 2 == 0:
            for _ in range(rng.choice([1, 1, 1, 2, 4])):
                if 0 < sum(1 for _ in nodes(policy)) < MAX_VALUES:
                    rng.choice(VALUE_DAMAGE)(rng, policy)
        content = json.dumps(policy, ensure_ascii=rng.random() < 0.7).encode(errors="surrogatepass")
        if i % 2 == 1 or i % 10 == 0:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                if len(content) < MAX_BYTES and PAIR.search(content):
                    content = rng.choice(TEXT_DAMAGE)(rng, content)
        yield many_keys(rng, content) if i % 500 == 499 and b"{" in content else content


# --- What must hold ---------------------------------------------------------------------------------------------------


def is_json(content: bytes) -> bool:
    try:
        json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return False
    return True


PLACE = re.compile(
    rf"^: (?:(?:{'|'.join(KEYS)})\b|layers\[\d+\]|the key .* is stated more than once"
    r"|every number must be finite|holds a number of more digits)"
    r"|^ (?:has an unknown key|lacks the key|must be an object)"
)
"""The beginning of a message, after the file's name, about a file that Python's own reader takes for JSON."""


def refusal(path: Path) -> str | None:
    """The message that the file is refused with, or None where it is read: then it survives being written."""
    try:
        policy = Policy.load(path)
    except PolicyError as error:
        return str(error)
    again = Policy.from_dict(json.loads(json.dumps(policy.to_dict())))
    assert again == policy
    assert again.digest == policy.digest
    assert Policy.parse(policy.describe()) == policy
    return None


def process_time_of_loading(path: Path) -> float:
    start = time.process_time()
    with contextlib.suppress(PolicyError):
        Policy.load(path)
    return time.process_time() - start


@pytest.mark.slow
def test_a_damaged_file_is_read_or_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    read = named = 0
    for i, content in enumerate(damaged_files(NUM_FILES, seed=0)):
        path.write_bytes(content)
        # Shared machines are noisy, garbage collection strikes at random: the best of three counts.
        assert any(process_time_of_loading(path) < MAX_LOAD_S for _ in range(3)), f"file {i} takes long"
        message = refusal(path)
        if message is None:
            read += 1
            continue
        assert message.startswith(str(path)), f"file {i}: {message}"
        message = message.removeprefix(str(path))
        assert message.isprintable(), f"file {i}: {message!r}"
        assert len(message) < MAX_MESSAGE, f"file {i}: {message}"
        if len(content) <= json_io.MAX_BYTES and is_json(content):
            named += 1
            assert PLACE.match(message), f"file {i}: {message}"
    assert read > NUM_FILES / 20, "some damage is harmless"
    assert named > NUM_FILES / 4, "much of it leaves JSON"


def test_loading_opens_the_file_and_nothing_else(tmp_path: Path) -> None:
    """No code is compiled, run or imported, no other file or connection opened, by whatever a file holds."""
    paths = []
    for i, content in enumerate(damaged_files(500, seed=1)):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_bytes(content)
        refusal(paths[-1])  # whatever is imported on first use, is now
    for path in paths:
        with Watch() as watch:
            process_time_of_loading(path)
        assert watch.events == [f"open {path}"]


def test_the_watch_sees_what_it_should() -> None:
    with Watch() as watch:
        exec("import json.tool; open(__file__).close()", {"__file__": __file__})
    heard = {event.split()[0] for event in watch.events}
    assert {"compile", "exec", "import", "open"} <= heard


def test_loading_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    tracemalloc.start()
    try:
        for i, content in enumerate(damaged_files(400, seed=2)):
            path.write_bytes(content)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            process_time_of_loading(path)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < MAX_MEMORY, f"file {i} of {len(content)} bytes takes {peak}"
    finally:
        tracemalloc.stop()


class Watch:
    """Collects the audit events of this thread that say that something is run, imported, opened or connected to."""

    WATCHED = ("exec", "compile", "import", "open", "pickle.", "marshal.", "os.", "subprocess.", "socket.", "ctypes.")
    current: "Watch | None" = None
    hooked = False

    def __init__(self) -> None:
        self.events: list[str] = []
        self.thread = threading.get_ident()
        if not Watch.hooked:
            # A hook cannot be removed: there is one, which does nothing while nobody watches, nor when Python takes its
            # modules apart.
            sys.addaudithook(lambda name, values: Watch and Watch.current and Watch.current.heard(name, values))
            Watch.hooked = True

    def __enter__(self) -> "Watch":
        Watch.current = self
        return self

    def __exit__(self, *_: object) -> None:
        Watch.current = None

    def heard(self, name: str, values: tuple[Any, ...]) -> None:
        if name.startswith(self.WATCHED) and threading.get_ident() == self.thread:
            self.events.append(f"{name} {values[0]}" if name == "open" else f"{name} ...")
