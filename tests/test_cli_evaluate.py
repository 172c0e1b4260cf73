"""`autopv evaluate` as a user meets it: results on stdout, one message for bad input, and going on after Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.cli import main
from autopv.evaluation import feature_store
from autopv.training.checkpoint import FILE_NAME

# A cheap network, as a user's package would hold it; a `held` file beside it makes it wait once a shard has been kept.
NETWORK = """
import time
from pathlib import Path

import torch


class Network(torch.nn.Module):
    def forward(self, images):
        log = Path(__file__).with_name("seen.txt")
        with log.open("a") as file:
            file.write(f"{len(images)}\\n")
        if Path(__file__).with_name("held").exists() and list(Path(__file__).parent.rglob("cache/**/*.safetensors")):
            time.sleep(100)
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "user_network_of_test_cli.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return "user_network_of_test_cli:Network"


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Children hear SIGINT, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def write(folder: Path, count: int, *, seed: int = 0, size_px: int = 16, shade: int = 0) -> Path:
    """A folder of grey images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(40 + shade, 180 + shade, (size_px, size_px), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}-{number:03d}.png")
    return folder


def evaluate(network: str, *arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--extractor", network])


def fails(capsys: pytest.CaptureFixture[str], network: str, *arguments: object) -> str:
    """The one message that bad input gets; checks that it is one, and that there is no result."""
    assert evaluate(network, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert captured.err.count("autopv: ") == 1
    return captured.err.splitlines()[-1]


def test_the_table_is_printed_and_the_files_are_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str
) -> None:
    real, seen = write(tmp_path / "real", 30), write(tmp_path / "seen", 30, seed=1)
    made, other = write(tmp_path / "made", 30, seed=2), write(tmp_path / "other", 30, seed=3, shade=40)
    report = tmp_path / "deep" / "report"
    assert evaluate(network, real, made, "--against", other, "--train", seen, "--out", report) == 0
    captured = capsys.readouterr()
    assert "real images (floor)" in captured.out
    assert re.search("nearer to the real images", captured.out)
    assert "features of" not in captured.out
    record = json.loads((report / "evaluation.json").read_text())
    assert set(record["generated"]) == {str(made), str(other)}
    assert (report / "pairs-1.png").is_file()
    assert (report / "pairs-2.png").is_file()


def test_json_is_all_that_stdout_gets(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 30), write(tmp_path / "made", 20, seed=2)
    assert evaluate(network, real, made, "--json", "-n", 10, "--seed", 3, "--size", 12) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["num_images"], record["seed"], record["extractor"]["size_px"]) == (10, 3, 12)


def test_an_npz_and_a_folder_of_the_same_images_give_one_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str
) -> None:
    real, made = write(tmp_path / "real", 30), write(tmp_path / "made", 20, seed=2)
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(made.iterdir())])
    np.savez(tmp_path / "made.npz", pixels)
    told = []
    for generated in (made, tmp_path / "made.npz"):
        assert evaluate(network, real, generated, "--json") == 0
        told.append(json.loads(capsys.readouterr().out)["generated"][str(generated)])
    assert told[0]["fd"] == told[1]["fd"]


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    assert "nothing is overwritten" in fails(capsys, network, real, made, "--out", made)


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    (tmp_path / "file").write_text("not a folder")
    assert evaluate(network, real, made, "--out", tmp_path / "file" / "report") == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert "floor" in captured.out, "the result is not lost"


def test_sets_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real = write(tmp_path / "real", 10)
    (tmp_path / "empty").mkdir()
    one = write(tmp_path / "one", 1)
    assert "empty" in fails(capsys, network, real, tmp_path / "empty")
    assert "at least 2 images" in fails(capsys, network, real, one)
    assert "a generated set" in fails(capsys, network, real, tmp_path / "missing")
    assert "the reference" in fails(capsys, network, tmp_path / "missing", real)
    assert "named once" in fails(capsys, network, real, real)


def test_generated_images_of_mixed_sizes(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    write(made, 5, seed=3, size_px=20)
    assert "--size" in fails(capsys, network, real, made)
    assert evaluate(network, real, made, "--size", 16) == 0


def test_constant_and_equal_images(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, seen = write(tmp_path / "real", 10), write(tmp_path / "seen", 10, seed=1)
    np.save(tmp_path / "flat.npy", np.full((12, 16, 16), 90, dtype=np.uint8))
    assert evaluate(network, real, tmp_path / "flat.npy", "--train", seen) == 0
    assert "11 of 12 images repeat another one exactly" in capsys.readouterr().out
    assert "at least 4 different images" in fails(capsys, network, tmp_path / "flat.npy", real)


def test_arrays_that_are_no_images(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real = write(tmp_path / "real", 10)
    pixels = np.full((10, 16, 16), 0.5, dtype=np.float32)
    pixels[3, 4, 5] = np.nan
    np.savez(tmp_path / "nan.npz", pixels)
    np.savez(tmp_path / "vectors.npz", np.zeros((10, 5), dtype=np.float32))
    (tmp_path / "text.npz").write_text("not an array")
    for name in ("nan.npz", "vectors.npz", "text.npz"):
        assert name in fails(capsys, network, real, tmp_path / name)


def test_a_damaged_image_is_refused_with_strict_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str
) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    (made / "2-003.png").write_bytes((made / "2-003.png").read_bytes()[:50])
    assert "2-003.png" in fails(capsys, network, real, made, "--strict")
    assert evaluate(network, real, made) == 0
    assert "1 broken image was left out, e.g. 2-003.png" in capsys.readouterr().out


def test_truncated_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    (tmp_path / "network.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "network.pt").chmod(0o600)
    assert "network.pt" in fails(capsys, str(tmp_path / "network.pt"), real, made)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / FILE_NAME).write_bytes(b"\x10\x00\x00\x00")
    assert FILE_NAME in fails(capsys, network, real, tmp_path / "model")


def test_an_unknown_extractor_or_flag(capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    assert "lite0" in fails(capsys, "lite", real, made)
    if not torch.cuda.is_available():
        assert "needs a GPU" in fails(capsys, network, real, made, "--device", "cuda")
    assert "n = 9" in fails(capsys, network, real, made, "-n", 9)
    with pytest.raises(SystemExit) as stopped:
        evaluate(network, real, made, "--agianst", made)
    assert stopped.value.code == 2


def test_a_folder_that_changes_while_it_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = write(tmp_path / "real", 10), write(tmp_path / "made", 10, seed=2)
    compute = feature_store._compute

    def compute_while_another_writes(source: object, *arguments: object, **named: object) -> object:
        shard = compute(source, *arguments, **named)  # type: ignore[arg-type]
        if getattr(source, "label", None) == str(made):
            write(made, 1, seed=9)
        return shard

    monkeypatch.setattr(feature_store, "_compute", compute_while_another_writes)
    assert "while it is read" in fails(capsys, network, real, made)
    monkeypatch.undo()
    monkeypatch.syspath_prepend(tmp_path)
    assert evaluate(network, real, made, "--json") == 0
    assert json.loads(capsys.readouterr().out)["sets"][str(made)]["num_images"] == 11


@pytest.mark.slow
def test_after_an_interruption_only_what_is_missing_is_computed(
    tmp_path: Path, network: str, heard_interrupts: None
) -> None:
    real, made = write(tmp_path / "real", 300), write(tmp_path / "made", 40, seed=2)
    command = [sys.executable, "-m", "autopv.cli", "evaluate", str(real), str(made), "--extractor", network]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "held").touch()
    log = tmp_path / "seen.txt"
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        deadline_s = time.monotonic() + 60
        while not list((tmp_path / "cache").rglob("*.safetensors")) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    (tmp_path / "held").unlink()
    log.unlink()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    assert "real images (floor)" in second.stdout
    # The network is tried out on a few images first; the first 256 of the real ones were done.
    batches = [int(line) for line in log.read_text().split()]
    assert sum(size for size in batches if size > 4) == 300 - 256 + 40
