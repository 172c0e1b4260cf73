"""The worked example of a model that is no part of autopv: it conforms, and the command line finds it by its name."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autopv.cli import main
from autopv.cli.parser import make_parser
from autopv.errors import ModelError
from autopv.models.base import build_model, max_frames, model_names, model_package
from autopv.policy import Layer, Policy
from autopv.testing.model_suite import ModelSuite
from autopv.training.checkpoint import load_generator, read_info

FOLDER = Path(__file__).parents[2] / "experiments" / "own_model"
NAME, PACKAGE = "unet-flow", "unet-flow 0.1.0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="the example wraps a model of diffusers"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as an installer leaves it: the example's module, and its entry points beside it."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shutil.copy(FOLDER / "unet_flow.py", folder)
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    said = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(said, encoding="utf-8")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n\n".join(groups), encoding="utf-8")
    return folder


@pytest.fixture(scope="class")
def installed(site: Path) -> Iterator[None]:
    """The example is installed for as long as the tests of a class run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        yield
    sys.modules.pop("unet_flow", None)


def run_with(site: Path, command: str, *, work: Path) -> str:
    """What a command of autopv prints, in a process of its own for which the folder is on the path."""
    done = subprocess.run(
        [sys.executable, "-m", "autopv.cli", *command.split()],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a policy."""
    folder = tmp_path_factory.mktemp("work")
    random = np.random.default_rng(0)
    np.savez(folder / "parts.npz", images=random.integers(0, 256, (120, 8, 8), dtype=np.uint8))
    blur = Layer(op="gaussian_blur", magnitude=0.1, frames=(1, 1))
    Policy(num_frames=2, layers=(blur,)).save(folder / "blur.json")
    return folder


@pytest.fixture(scope="module")
def trained(site: Path, work: Path) -> Path:
    """The checkpoint of a few steps."""
    command = f"train --model {NAME} --policy blur.json --data parts.npz --size 8 --steps 4 --all-images --out model"
    run_with(site, command, work=work)
    return work / "model"


@pytest.mark.usefixtures("installed")
class TestUNetFlow(ModelSuite):
    model = NAME
    preset = "narrow"
    num_learning_steps = 15

    def test_it_is_known_by_its_name_and_package(self) -> None:
        assert NAME in model_names()
        assert model_package(NAME) == PACKAGE
        assert max_frames(NAME, preset="narrow", size_px=16) is None

    def test_a_flow_has_no_churn(self) -> None:
        model = self.build()
        assert model.sampling is not None
        model.sampling = type(model.sampling)(num_steps=2, churn=1.0)
        with pytest.raises(ModelError, match="leave it out"):
            model.sample_last_frame(1, generator=torch.Generator())

    def test_a_trained_checkpoint_names_it_and_is_sampled(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        info = read_info(trained)
        assert (info.model_name, info.preset, info.model_package) == (NAME, "narrow", PACKAGE), "the smallest preset"
        assert info.steps_done > 0
        arguments = ["sample", "--checkpoint", str(trained), "-n", "3", "--sampling-steps", "4", "--frames"]
        assert main([*arguments, "--out", str(tmp_path / "samples.npz")]) == 0, capsys.readouterr().err
        frames_NTCHW = np.load(tmp_path / "samples.npz")["frames_NTCHW"]
        assert frames_NTCHW.shape == (3, 2, 1, 8, 8)
        assert "3 videos of 2 frames" in capsys.readouterr().out

    def test_a_preset_it_does_not_have_is_answered_with_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Policy.image_only().save(tmp_path / "policy.json")
        command = ["train", "--model", NAME, "--preset", "tiny", "--policy", str(tmp_path / "policy.json")]
        assert main([*command, "--data", "elpv", "--out", str(tmp_path / "model")]) == 2
        assert "has no preset 'tiny'. Known: narrow, wide" in capsys.readouterr().err


def test_every_command_of_its_readme_is_one_that_autopv_takes() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    prefix = "    uv run --with ./experiments/own_model autopv "
    commands = [shlex.split(line.removeprefix(prefix)) for line in text.splitlines() if line.startswith(prefix)]
    assert [command[0] for command in commands] == ["doctor", "train", "sample", "search"]
    for command in commands:
        make_parser().parse_args(command)


def test_where_it_is_not_installed_its_checkpoint_says_what_is_missing(trained: Path) -> None:
    assert NAME not in model_names()
    with pytest.raises(ModelError, match=rf"'{NAME}', which is not installed here.* install the package {PACKAGE}"):
        load_generator(trained)


def test_where_it_is_not_installed_its_name_is_answered_with_those_that_are() -> None:
    with pytest.raises(
        ModelError, match=rf"unknown model '{NAME}'.* Known: diffusion, hvae, refine, vq.* is installed"
    ):
        build_model(NAME, preset="narrow", size_px=8, channels=1, num_frames=1, seed=0)


@pytest.mark.skipif("AUTOPV_EXPERIMENTS" not in os.environ, reason="a search in Ray: run with AUTOPV_EXPERIMENTS=1")
def test_the_workers_of_a_search_find_it(site: Path, work: Path) -> None:
    command = f"search --model {NAME} --data parts.npz --size 8 --budget 7trials --trial-steps 4 --seeds 1 --out run"
    assert "Verification on the final split" in run_with(site, command, work=work)
    settings = json.loads((work / "run" / "run.json").read_text(encoding="utf-8"))
    assert (settings["model"], settings["preset"]) == (NAME, "narrow")
    assert settings["versions"]["model package"] == PACKAGE
