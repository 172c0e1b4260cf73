"""The commands of experiments/standard: the small ones are run on sets made here, the large ones are parsed."""

import shlex
from pathlib import Path

import pytest
from PIL import Image
from standard_cases import write_celeba, write_cifar10, write_mnist

from autopv.cli import main
from autopv.cli.parser import make_parser
from autopv.policy import Policy
from autopv.training.checkpoint import FILE_NAME, read_info

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "standard"


def commands(heading: str) -> list[list[str]]:
    """The arguments of each `uv run autopv` below a heading of the README."""
    (section,) = (
        part
        for part in (FOLDER / "README.md").read_text(encoding="utf-8").split("\n## ")
        if part.startswith(heading + "\n")
    )
    lines = [line.strip() for line in section.splitlines() if line.startswith("    uv run autopv ")]
    return [shlex.split(line.removeprefix("uv run autopv ")) for line in lines]


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new user, into whose cache the sets have been downloaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    datasets = tmp_path / "cache-home" / "autopv" / "datasets"
    write_mnist(datasets, count=120)
    write_cifar10(datasets, monkeypatch, per_batch=24)
    write_celeba(datasets, monkeypatch, count=130)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    return datasets


def test_every_command_is_one_that_autopv_takes() -> None:
    small, large = commands("Smoke"), commands("At the published sizes")
    assert len(small) >= 4
    assert len(large) >= 10
    for arguments in (*small, *large):
        make_parser().parse_args(arguments)


def test_the_policies_are_the_controls_they_are_said_to_be() -> None:
    assert Policy.load(FOLDER / "image_only.json") == Policy.image_only()
    blur = Policy.load(FOLDER / "gaussian_blur.json")
    assert (blur.num_frames, [layer.op for layer in blur.layers]) == (4, ["gaussian_blur"])


@pytest.mark.slow
def test_the_small_commands_run_from_end_to_end(sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in commands("Smoke"):
        assert main(arguments) == 0, arguments
        if arguments[0] == "train":
            assert "search split" in capsys.readouterr().out
    for name, channels in (("mnist", 1), ("cifar10", 3), ("celeba", 3)):
        info = read_info(Path(f"runs/smoke-{name}"))
        assert (info.size_px, info.channels) == (32, channels)
        assert (Path(f"runs/smoke-{name}") / FILE_NAME).stat().st_size > 0
    with Image.open("preview-cifar10.png") as picture:
        assert picture.width < picture.height  # 4 frames wide, 6 images high


@pytest.mark.slow
@pytest.mark.usefixtures("sets")
def test_what_is_wrong_with_a_set_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cache-home/autopv/datasets/MNIST/raw/train-images-idx3-ubyte").write_bytes(b"cut")
    before = sorted(tmp_path.rglob("*"))
    for source, says in (
        ("cifr10:empty", "Did you mean 'cifar10'"),
        ("cifar10:empty", "lacks 'cifar-10-batches-py/data_batch_1' and 6 more"),
        ("mnist", "holds a damaged 'MNIST/raw/train-images-idx3-ubyte'"),
        ("celeba:nowhere", "'nowhere' lacks"),
    ):
        train = ["train", "--policy", "experiments/standard/image_only.json", "--data", source, "--out", "model"]
        preview = ["preview", "--policy", "experiments/standard/image_only.json", "--data", source, "--out", "p.png"]
        evaluate = ["evaluate", source, "empty", "--out", "report"]
        for arguments in (train, preview, evaluate):
            assert main(arguments) == 2, arguments
            printed = capsys.readouterr()
            assert printed.out == ""
            assert len(printed.err.splitlines()) == 1
            assert says in printed.err
    assert sorted(tmp_path.rglob("*")) == before
