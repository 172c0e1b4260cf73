"""`autopv train` as a user meets it: interrupted, gone on with, forced, on every image, asked for the impossible."""

import json
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autopv.cli import main
from autopv.policy import Layer, Policy
from autopv.training.checkpoint import FILE_NAME, read_info
from autopv.training.trainer import Trainer


@pytest.fixture
def heard_signals() -> Iterator[None]:
    """SIGINT is heard, also where the tests run in the background of a shell, which ignores it; both are restored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """A training of six steps on forty images with a blank in their name, too few for splits: on all of them."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "my parts.npz", images=images)
    Policy(num_frames=2, layers=(Layer(op="gaussian_blur", magnitude=0.1, frames=(1, 1)),)).save(tmp_path / "blur.json")
    flags = {"--policy": "blur.json", "--data": "my parts.npz", "--out": "model"}
    named = [text for flag, name in flags.items() for text in (flag, str(tmp_path / name))]
    return ["train", *named, "--size", "8", "--steps", "7", "--all-images"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_saves_and_the_command_it_prints_goes_on(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    heard_signals: None,
    number: signal.Signals,
    code: int,
) -> None:
    real = Trainer._step

    def step(self: Trainer, learning_rate: float) -> object:
        loss = real(self, learning_rate)
        if self.steps_done == 3:
            signal.raise_signal(number)
        return loss

    monkeypatch.setattr(Trainer, "_step", step)
    assert main(command) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert read_info(tmp_path / "model").position == 3
    printed = captured.err.strip().splitlines()[-1].removeprefix("autopv: interrupted. To go on: ")
    name, *arguments = shlex.split(printed)
    assert (name, arguments) == ("autopv", [*command, "--resume"])
    monkeypatch.setattr(Trainer, "_step", real)
    assert main(arguments) == 0
    assert "going on from step 3" in capsys.readouterr().err


@pytest.mark.slow
def test_every_image_is_trained_on_and_no_distance_is_claimed(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--json", "--keep-every", "2"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["trained_on"], result["num_train_images"], result["best"]) == ("all", 40, None)
    assert len(list((tmp_path / "model").glob(f"step-*/{FILE_NAME}"))) == result["total_steps"] // 2
    assert main([*command, "--resume"]) == 0
    assert "No honest distance can be given" in capsys.readouterr().out


@pytest.mark.slow
def test_settings_of_the_optimiser_reach_the_training(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--batch-size", "16", "--learning-rate", "0.001", "--kl-weight", "2", "--flips"]
    assert main([*command, *flags]) == 0
    plan = read_info(tmp_path / "model").plan
    assert (plan.batch_size, plan.learning_rate, plan.kl_weight, plan.horizontal_flips) == (16, 0.001, 2.0, True)
    assert main([*command, *flags, "--kl-weight", "1", "--resume"]) == 2
    assert "--kl-weight" in capsys.readouterr().err


@pytest.mark.slow
def test_other_settings_are_refused_unless_forced(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 0
    longer = [*command, "--steps", "14", "--resume"]
    assert main(longer) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("autopv: ")
    assert "--steps" in message
    assert "--force" in message
    assert main([*longer, "--force"]) == 0
    assert "Going on under other settings (--force): plan.total_flops" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--force"], "--force tells --resume"),
        (["--looks", "2"], "--looks 2 would change nothing"),
        (["--patience", "0"], "--patience 0 would change nothing"),
        (["--metric", "fid"], "--metric fid would change nothing"),
        (["--resume"], "holds no"),
        (["--kl-weight", "-1"], "kl_weight"),
        (["--num-workers", "3"], "got 32 images for 3 workers: give --batch-size 30 or 33, or another --num-workers"),
        (["--num-workers", "2", "--address", "nowhere"], "no Ray cluster can be joined there"),
        (["--address", "127.0.0.1:1"], "no Ray cluster can be joined there"),
    ],
)
def test_what_cannot_be_is_answered_by_one_message(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main([*command, *flags]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert says in message
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("flags", [["--looks", "0"], ["--patience", "-1"], ["--keep-every", "x"]])
def test_numbers_out_of_bounds_are_refused_by_the_parser(
    command: list[str], capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_is_trained_by_class_where_there_are_classes(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--classes"]) == 2
    assert "sort them into sub-folders" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
    images = np.random.default_rng(0).integers(0, 256, (110, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "my parts.npz", images=images, labels=[0] * 40 + [1] * 60 + [-1] * 10)
    measured = [part for part in command if part != "--all-images"]
    assert main([*measured, "--classes", "--looks", "1", "--json"]) == 0
    captured = capsys.readouterr()
    assert "by class: 0 (24), 1 (36); 6 images of no known class" in captured.err
    looked_at = json.loads(captured.out)["best"]["classes"]
    assert {name: one["num_reference"] for name, one in looked_at.items()} == {"0": 8, "1": 12}
    assert [one["num_generated"] / 512 for one in looked_at.values()] == pytest.approx([24 / 66, 36 / 66], abs=0.01)
    assert main([*measured, "--looks", "1", "--resume"]) == 2
    assert "classes=0, 1, but got classes=none" in capsys.readouterr().err
    assert main([*measured, "--classes", "--looks", "1", "--resume"]) == 0
    assert "within each class at the best look" in capsys.readouterr().out
