"""What a user meets: help, good commands, and every kind of bad input answered by one clear message and exit code 2."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopv.cli import main
from autopv.cli.flags import strategy_flags
from autopv.policy import Layer, Policy
from autopv.search import job
from autopv.search.budget import Budget
from autopv.search.request import SearchRequest
from autopv.search.samplers import SAMPLERS
from autopv.search.study import STOPPING
from autopv.training.checkpoint import FILE_NAME

BLUR = Policy(num_frames=3, layers=(Layer(op="gaussian_blur", magnitude=0.1, frames=(1, 2)),))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 120 grey 16 px images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(120):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"part{i:03d}.png")
    return folder


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    path = tmp_path / "blur.json"
    BLUR.save(path)
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message that bad input gets; checks that it is one, and that nothing else was printed."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *before, message = captured.err.splitlines()
    assert message.startswith("autopv: ")
    assert not any("autopv: " in line or "Traceback" in line for line in before)
    return message


def search_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, *flags: object, data: object) -> str:
    out = tmp_path / "run"
    message = fails(capsys, "search", "--data", data, "--budget", "8trials", "--out", out, *flags)
    assert not out.exists(), "a refused request writes nothing"
    return message


class Asked(Exception):
    """Carries a request to the test that caught it."""


def test_the_defaults_of_the_flags_are_those_of_the_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They stand twice, since `--help` must not wait for the imports that the request needs."""

    def caught(request: SearchRequest, **_: object) -> None:
        raise Asked(request)

    monkeypatch.setattr(job, "start_job", caught)
    out = tmp_path / "run"
    with pytest.raises(Asked) as asked:
        main(["search", "--data", "elpv", "--budget", "8trials", "--out", str(out)])
    assert asked.value.args[0] == SearchRequest(data="elpv", budget=Budget(trials=8), out=out)


def test_the_choices_of_the_flags_are_those_of_the_search() -> None:
    flags = argparse.ArgumentParser()
    strategy_flags(flags)
    choices = {action.dest: action.choices for action in flags._actions}
    assert set(choices["sampler"] or ()) == set(SAMPLERS)
    assert set(choices["stopping"] or ()) == set(STOPPING)


def test_an_unknown_command_or_flag_is_refused_briefly(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["serach"], ["search", "--data", "elpv", "--budget", "1cpu-h", "--sise", "3"], ["search"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    assert "imagse" in search_fails(capsys, tmp_path, data=images.with_name("imagse"))


def test_a_folder_without_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("nothing to see")
    assert "notes" in search_fails(capsys, tmp_path, data=tmp_path / "notes")


def test_an_unknown_demo_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "elpv" in search_fails(capsys, tmp_path, data="elvp")


def test_too_few_images_says_how_many_are_needed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    for path in sorted(images.iterdir())[30:]:
        path.unlink()
    message = search_fails(capsys, tmp_path, data=images)
    assert "30" in message
    assert "100" in message


def test_a_broken_image_is_refused_when_strict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    (images / "broken.png").write_bytes(b"\x89PNG but no more")
    assert "broken.png" in search_fails(capsys, tmp_path, "--strict", data=images)


def test_a_bad_unit_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    message = fails(capsys, "search", "--data", "elpv", "--budget", "10cpu-minutes", "--out", out)
    assert "cpu-min" in message


def test_an_unknown_space_model_preset_metric(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    for flag, wrong, nearest in (
        ("--space", "stage2_expresive", "stage2_expressive"),
        ("--model", "hvea", "hvae"),
        ("--preset", "tny", "tiny"),
        ("--metric", "fd_lite", "Did you mean 'lite0'"),
    ):
        assert nearest in search_fails(capsys, tmp_path, flag, wrong, data=images)


def test_a_size_the_preset_cannot_serve(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    assert "17" in search_fails(capsys, tmp_path, "--size", 17, data=images)


def test_gpu_time_without_a_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "GPU" in fails(capsys, "search", "--data", images, "--budget", "1gpu-h", "--out", tmp_path / "run")


def test_a_budget_too_small_for_one_trial(capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path) -> None:
    message = fails(capsys, "search", "--data", images, "--budget", "5cpu-s", "--out", tmp_path / "run")
    assert "smallest sensible budget" in message


def test_an_output_folder_that_holds_another_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    message = fails(capsys, "search", "--data", images, "--budget", "8trials", "--out", out)
    assert "autopv resume" in message


def test_missing_extractor_weights_say_how_to_get_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autopv.metrics import extractors

    monkeypatch.setenv("AUTOPV_LITE0_WEIGHTS", str(tmp_path / "nowhere.pth"))
    monkeypatch.setattr(extractors, "_load", extractors._load.__wrapped__)
    assert "nowhere.pth" in search_fails(capsys, tmp_path, data=images)


def test_a_run_folder_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command in ("resume", "status"):
        assert "not a run folder" in fails(capsys, command, tmp_path)


def test_a_run_folder_of_another_format(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 99, "autopv_version": "9.9"}))
    assert "9.9" in fails(capsys, "resume", tmp_path)
    (tmp_path / "run.json").write_text("{ half a fi")
    assert "damaged" in fails(capsys, "status", tmp_path)


def test_policies_are_validated_and_shown(capsys: pytest.CaptureFixture[str], policy_file: Path) -> None:
    assert main(["policy", "validate", str(policy_file)]) == 0
    assert "valid" in capsys.readouterr().out
    assert main(["policy", "show", str(policy_file)]) == 0
    assert json.loads(capsys.readouterr().out)["num_frames"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format_version": 2}, "format_version"),
        ({"num_frame": 3}, "num_frames"),
        ({"markov_order": 9}, "markov_order"),
        ({"layers": [{"op": "gausian_blur", "magnitude": {"sigma": 0.1}, "frames": [1, 2]}]}, "gaussian_blur"),
    ],
)
def test_a_bad_policy_file_is_named_with_the_key(
    capsys: pytest.CaptureFixture[str], policy_file: Path, change: dict[str, object], says: str
) -> None:
    policy_file.write_text(json.dumps({**BLUR.to_dict(), **change}))
    message = fails(capsys, "policy", "validate", policy_file)
    assert "blur.json" in message
    assert says in message


def test_preview_draws_and_overwrites_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, policy_file: Path
) -> None:
    command = ["preview", "--policy", policy_file, "--data", images, "--out", tmp_path / "p.png", "--size", 16]
    assert main([str(argument) for argument in command]) == 0
    capsys.readouterr()
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width < picture.height  # 3 frames wide, 6 images high
    assert "overwritten" in fails(capsys, *command)


@pytest.mark.slow
def test_train_resume_and_sample(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, policy_file: Path
) -> None:
    model = tmp_path / "model"
    command = ["train", "--policy", policy_file, "--data", images, "--out", model, "--steps", 6]
    assert main([str(argument) for argument in command]) == 0
    first = capsys.readouterr().out
    assert "search split" in first
    assert (model / FILE_NAME).exists()
    assert "--resume" in fails(capsys, *command)
    assert main([str(argument) for argument in [*command, "--resume"]]) == 0
    assert capsys.readouterr().out == first, "a finished training is told alike"
    assert main(["sample", "--checkpoint", str(model), "-n", "5", "--out", str(tmp_path / "s")]) == 0
    assert len(list((tmp_path / "s").glob("*.png"))) == 5


def test_doctor_reports_every_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok  ", "missing  ")) for line in lines)
    assert any("lite0" in line for line in lines)


def test_preview_takes_other_orders_and_randomness_and_moves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path
) -> None:
    noise = Policy(num_frames=4, layers=(Layer(op="gaussian_noise", magnitude=0.3, frames=(1, 3)),))
    noise.save(tmp_path / "noise.json")
    command = ["preview", "--policy", tmp_path / "noise.json", "--data", images, "--size", 16]
    for out, flags, says in (
        ("a.png", (), "order=1 fresh"),
        ("b.gif", ("--order", 2), "order=2 fresh"),
        ("c.webp", ("--randomness", "shared"), "order=3 shared"),
    ):
        assert main([str(argument) for argument in [*command, "--out", tmp_path / out, *flags]]) == 0
        assert says in capsys.readouterr().out
        with Image.open(tmp_path / out) as picture:
            assert getattr(picture, "n_frames", 1) == (1 if out == "a.png" else 4)
    assert "markov_order" in fails(capsys, *command, "--out", tmp_path / "d.png", "--order", 4)
    assert ".webp" in fails(capsys, *command, "--out", tmp_path / "d.mp4")
    assert "no folder" in fails(capsys, *command, "--out", tmp_path / "none" / "d.png")


def test_policies_are_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path, policy_file: Path) -> None:
    Policy(num_frames=3, layers=(Layer(op="gaussian_blur", magnitude=0.2, frames=(1, 2)),)).save(tmp_path / "b.json")
    assert main(["policy", "diff", str(policy_file), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "0.1 -> 0.2" in printed
    assert main(["policy", "diff", str(policy_file), str(policy_file)]) == 0
    assert "the same policy" in capsys.readouterr().out


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_profile_is_printed_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, images: Path, policy_file: Path
) -> None:
    command = ["policy", "profile", policy_file, "--data", images, "--size", 16, "--no-features", "-n", 60]
    assert main([str(argument) for argument in [*command, "--out", tmp_path / "p.png"]]) == 0
    assert capsys.readouterr().out.strip()
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 200
    assert main([str(argument) for argument in [*command, "--json"]]) == 0
    assert json.loads(capsys.readouterr().out)
    assert "overwritten" in fails(capsys, *command, "--out", tmp_path / "p.png")


def test_ops_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ops"]) == 0
    assert "gaussian_noise" in capsys.readouterr().out
    assert main(["ops", "erase"]) == 0
    assert "share of the image's area" in capsys.readouterr().out
    assert "Did you mean 'erase'" in fails(capsys, "ops", "erasse")
