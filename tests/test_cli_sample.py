"""`autopv sample` as a user meets it: files, speed and progress, one message for bad input, and an orderly Ctrl-C."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopv.cli import main, sample_command
from autopv.data.class_labels import ClassLabels
from autopv.policy import Layer, Policy
from autopv.training.checkpoint import FILE_NAME, load_generator, save_checkpoint
from autopv.training.measure import sample_images
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

VIDEOS = Policy(num_frames=3, layers=(Layer(op="gaussian_noise", magnitude=0.2, frames=(1, 2)),))


def write_model(folder: Path, policy: Policy, *, family: str = "hvae", classes: ClassLabels | None = None) -> Path:
    """The checkpoint of an untrained model of grey 8 px images, perhaps of classes that have come apart."""
    images = torch.randint(0, 256, (8, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plan = TrainingPlan(total_flops=1e9, batch_size=4)
    trainer = Trainer(
        family,
        preset="tiny",
        size_px=8,
        channels=1,
        policy=policy,
        images_NCHW=images,
        classes=classes,
        plan=plan,
        seed=0,
    )
    model = trainer.learner.model
    if classes is not None and family == "hvae":
        for row in range(len(classes.names)):
            torch.nn.init.constant_(model.of_class[-1].weight[row], 10.0 * row)
    if classes is not None and family == "diffusion":
        torch.nn.init.normal_(model.denoiser.leave.weight, generator=torch.Generator().manual_seed(0))
        torch.nn.init.normal_(model.denoiser.up[-1].second.weight, generator=torch.Generator().manual_seed(1))
    trainer.learner.restore(
        trainer.learner.tensors() | {f"ema/{name}": value.detach() for name, value in model.named_parameters()}
    )
    save_checkpoint(trainer, folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", VIDEOS)


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Children hear SIGINT, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def sample(*arguments: object) -> int:
    return main(["sample", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message that bad input gets; checks that it is one, and that nothing else was printed."""
    assert sample(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == captured.err.count("autopv: ") == 1
    return captured.err


def stored(path: Path) -> np.ndarray:
    with np.load(path) as file:
        (name,) = file.files
        return file[name]


def test_images_are_those_of_every_other_caller_with_that_seed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    assert sample("--checkpoint", model, "-n", 130, "--seed", 3, "--temperature", 0.7, "--out", tmp_path / "s.npz") == 0
    assert re.search(r"^130 images of 8 px in .*s\.npz \(\d+ images/s", capsys.readouterr().out)
    generator, _ = load_generator(model)
    images = sample_images(generator, num_images=130, seed=3, temperature=0.7)
    assert np.array_equal(stored(tmp_path / "s.npz"), (images * 255).round().byte().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("flag", [("--seed", 1), ("--temperature", 0.5), ("--batch", 3)])
def test_every_flag_changes_the_images(tmp_path: Path, model: Path, flag: tuple[object, ...]) -> None:
    plain = ["--checkpoint", model, "-n", 5, "--out"]
    assert sample(*plain, tmp_path / "a.npz") == sample(*plain, tmp_path / "b.npz", *flag) == 0
    assert not np.array_equal(stored(tmp_path / "a.npz"), stored(tmp_path / "b.npz"))


def test_the_last_frames_of_videos_are_the_images(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    plain = ["--checkpoint", model, "-n", 5, "--out"]
    for out in ("images.npz", "images"):
        assert sample(*plain, tmp_path / out) == 0
    capsys.readouterr()
    for out in ("videos.npz", "videos", "videos.gif"):
        assert sample(*plain, tmp_path / out, "--frames") == 0
        assert "5 videos of 3 frames, most corrupted first" in capsys.readouterr().out
    frames_NTCHW = stored(tmp_path / "videos.npz")
    assert frames_NTCHW.shape == (5, 3, 1, 8, 8)
    assert np.array_equal(frames_NTCHW[:, -1, 0], stored(tmp_path / "images.npz")[..., 0])
    image, last = (tmp_path / name for name in ("images/00004.png", "videos/00004/3.png"))
    assert image.read_bytes() == last.read_bytes()
    with Image.open(tmp_path / "videos.gif") as picture:
        assert picture.n_frames == 3


def test_videos_of_a_model_of_images_are_its_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", Policy.image_only())
    assert sample("--checkpoint", model, "-n", 2, "--frames", "--out", tmp_path / "s") == 0
    assert "one frame, the image" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["00000.png", "00001.png"]


def test_a_run_folder_stands_for_its_model(tmp_path: Path, model: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 1}')
    assert sample("--checkpoint", tmp_path, "-n", 1, "--out", tmp_path / "s") == 0


def test_long_sampling_tells_how_far_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_command, "_LINE_EVERY_S", 0.0)
    assert sample("--checkpoint", model, "-n", 5, "--batch", 2, "--out", tmp_path / "s") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["2/5", "4/5"]
    assert all(re.search(r"\d/s  0\.0 min left$", line) for line in lines)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--temperature", -0.1], "--temperature must be at least 0, but got -0.1"),
        (["--temperature", "nan"], "--temperature must be at least 0"),
        (["--seed", -1], "--seed must be"),
        (["--seed", 2**70], "--seed must be"),
        (["--out", "s.gif"], "add --frames"),
        (["--out", "s.mp4"], "must be a folder, or end in"),
        (["--out", "s.npz", "-n", 10**15], "GB are free"),
        (["-n", 10**12, "--batch", 10**12], "--batch 1000000000000 must fit the memory of cpu"),
        (["--checkpoint", "elsewhere"], "is the path right?"),
    ],
)
def test_bad_input_gets_one_message_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[object],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, "--checkpoint", model, "--out", "s", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_damaged_checkpoint_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    (model / FILE_NAME).write_bytes((model / FILE_NAME).read_bytes()[:1000])
    assert "truncated or damaged" in fails(capsys, "--checkpoint", model, "--out", tmp_path / "s")


def test_what_lies_there_is_not_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    for out in (model, model / FILE_NAME):
        assert "nothing is overwritten" in fails(capsys, "--checkpoint", model, "--out", out)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path) -> None:
    assert "autopv doctor" in fails(capsys, "--checkpoint", model, "--out", tmp_path / "s", "--device", "cuda")


def test_a_disk_that_fills_up_is_told_with_what_is_there(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: Path,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    with file_size_limit(600):  # an array of ten images has more
        message = fails(capsys, "--checkpoint", model, "-n", 10, "--out", tmp_path / "s.npz")
    assert "cannot be written any further: File too large. 0 of 10 are there" in message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_an_interruption_tells_how_many_are_there(tmp_path: Path, model: Path, heard_interrupts: None) -> None:
    command = [sys.executable, "-m", "autopv.cli", "sample", "--checkpoint", str(model), "-n", "10000000"]
    out = tmp_path / "s"
    with subprocess.Popen([*command, "--out", str(out)], stdout=-1, stderr=-1, text=True) as process:
        deadline_s = time.monotonic() + 60
        while not list(out.glob("0*.png")) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert printed == ""
    assert "Traceback" not in told
    assert f"{len(list(out.iterdir()))} of 10000000 are in {out}" in told


def test_a_diffusion_model_is_sampled_in_as_many_steps_as_asked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    diffusion = write_model(tmp_path / "diffusion", VIDEOS, family="diffusion")
    for out, flags in (("a", ()), ("b", ("--sampling-steps", 3)), ("c", ("--sampling-steps", 3, "--churn", 5))):
        assert sample("--checkpoint", diffusion, "-n", 2, *flags, "--out", tmp_path / f"{out}.npz") == 0
    drawn = [np.load(tmp_path / f"{out}.npz")["images"] for out in "abc"]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])
    capsys.readouterr()
    assert sample("--checkpoint", diffusion, "-n", 2, "--churn", -1, "--out", tmp_path / "d.npz") == 2
    assert "churn must be a number from 0 on" in capsys.readouterr().err
    assert sample("--checkpoint", model, "-n", 2, "--sampling-steps", 3, "--out", tmp_path / "e.npz") == 2
    assert "hvae is not one of them" in capsys.readouterr().err


CLASSES = ClassLabels(("crack", "good"), torch.tensor([0, 0, 0, 1, 1, 1, 1, -1]))


def test_one_class_is_sampled_where_it_is_asked_for_and_all_where_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model", VIDEOS, classes=CLASSES)
    for out in ("cracks", "cracks.npz"):
        assert sample("--checkpoint", model, "-n", 4, "--class", "crack", "--out", tmp_path / out) == 0
        assert "4 images of class crack of 8 px" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "cracks").iterdir()) == [f"0000{i}.png" for i in range(4)]
    assert sample("--checkpoint", model, "-n", 4, "--class", "good", "--out", tmp_path / "good.npz") == 0
    assert not np.array_equal(stored(tmp_path / "cracks.npz"), stored(tmp_path / "good.npz"))
    assert sample("--checkpoint", model, "-n", 4, "--class", "good", "--frames", "--out", tmp_path / "videos.npz") == 0
    assert np.array_equal(stored(tmp_path / "videos.npz")[:, -1, 0], stored(tmp_path / "good.npz")[..., 0])
    capsys.readouterr()
    assert sample("--checkpoint", model, "-n", 16, "--out", tmp_path / "all") == 0
    assert "; 6 of class crack, 8 of class good; policy" in capsys.readouterr().out
    counts = {name: len(list((tmp_path / "all" / name).glob("*.png"))) for name in ("crack", "good", ".")}
    assert counts == {"crack": 6, "good": 8, ".": 2}
    assert sample("--checkpoint", model, "-n", 16, "--out", tmp_path / "all.npz") == 0
    with np.load(tmp_path / "all.npz") as file:
        assert sorted(file["labels"].tolist()) == ["."] * 2 + ["crack"] * 6 + ["good"] * 8


def test_a_class_that_cannot_be_sampled_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: Path
) -> None:
    by_class = write_model(tmp_path / "by_class", VIDEOS, classes=CLASSES)
    out = ("--out", tmp_path / "s")
    assert "Did you mean 'crack'" in fails(capsys, "--checkpoint", by_class, "--class", "crak", *out)
    assert "train one with `autopv train --classes`" in fails(capsys, "--checkpoint", model, "--class", "good", *out)
    assert "hvae is not one of them" in fails(capsys, "--checkpoint", by_class, "--guidance", 2, *out)
    plain = write_model(tmp_path / "plain", VIDEOS, family="diffusion")
    assert "trained without classes" in fails(capsys, "--checkpoint", plain, "--guidance", 2, *out)


def test_guidance_changes_what_a_diffusion_model_draws_of_a_class(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", VIDEOS, family="diffusion", classes=CLASSES)
    asked = ("--checkpoint", model, "-n", 2, "--class", "good", "--sampling-steps", 3, "--out")
    for out, flags in (("a", ()), ("b", ("--guidance", 1)), ("c", ("--guidance", 3))):
        assert sample(*asked, tmp_path / f"{out}.npz", *flags) == 0
    drawn = [stored(tmp_path / f"{out}.npz") for out in "abc"]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[1], drawn[2])
