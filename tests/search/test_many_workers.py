"""A training by two workers through Ray, as a process that loses a worker and is interrupted."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from drivers import Process, left_in
from safetensors import safe_open

from autopv.errors import InputError, TrainingDiverged
from autopv.policy import Layer, Policy
from autopv.search import many_workers
from autopv.search.many_workers import train_with_workers
from autopv.search.processes import process
from autopv.training.checkpoint import FILE_NAME, read_info
from autopv.training.full import train_fully
from autopv.training.full_request import TrainRequest

# Looks end at steps 25, 50, 100 and 200; slow enough in learning for rounding to stay what it is.
STEPS, RATE, BATCH = 200, 1e-4, 8
POLICY = Policy(num_frames=2, layers=(Layer(op="erase", magnitude=0.3, frames=(1, 1), probability=0.7),))


@pytest.fixture
def started() -> Iterator[list[Process]]:
    """What a test started, ended with it whatever becomes of it."""
    made: list[Process] = []
    yield made
    for one in made:
        one.kill_all()


def request(out: Path, image_file: Path, metric: str, **changes: object) -> TrainRequest:
    settings = {
        "policy": POLICY,
        "steps": image_only_steps(),
        "learning_rate": RATE,
        "batch_size": BATCH,
        "patience": 0,
        "flips": True,
    }
    return TrainRequest(data=str(image_file), metric=metric, out=out, **{**settings, **changes})  # type: ignore[arg-type]


def image_only_steps() -> int:
    from autopv.models.base import build_model

    model = build_model("hvae", preset="tiny", size_px=16, channels=1, num_frames=2, seed=0)
    return -(-STEPS * int(model.flops_per_image(2)) // int(model.flops_per_image(1)))


@pytest.mark.slow
def test_a_lost_worker_and_an_interruption_cost_nothing_but_time(
    image_file: Path, quick_metric: str, tmp_path: Path, temp_folder: Path, started: list[Process]
) -> None:
    out, told = tmp_path / "out", tmp_path / "stderr.txt"
    POLICY.save(tmp_path / "policy.json")
    arguments = ["train", "--policy", str(tmp_path / "policy.json"), "--data", str(image_file), "--out", str(out)]
    arguments += ["--metric", quick_metric, "--steps", str(image_only_steps()), "--learning-rate", str(RATE)]
    arguments += ["--batch-size", str(BATCH), "--patience", "0", "--flips", "--num-workers", "2"]
    driver = Process(arguments, temp_folder=temp_folder, stderr=told)
    started.append(driver)

    def has_told(text: str) -> bool:
        return text in told.read_text()

    driver.wait_until(lambda: has_told("look at step"))
    workers = [pid for pid, line in driver.running().items() if line.startswith("ray::RayTrainWorker")]
    assert len(workers) == 2
    for helper in ("AutoscalingCoordinator", "PlacementGroupCleaner", "DatasetManager"):
        assert not any(helper in line for line in driver.running().values()), f"{helper} is not needed"
    os.kill(workers[1], signal.SIGKILL)
    driver.wait_until(lambda: has_told("going on from step"))
    assert has_told("was lost (killed, or out of memory): all workers start again from the last checkpoint.")
    driver.wait_until(lambda: told.read_text().count("look at step") >= 2)
    asked_s = driver.interrupt(signal.SIGINT)
    code, _ = driver.end()
    text = told.read_text()
    assert code == 130, text
    assert "Stopping: what has been trained is being saved." in text
    assert "--num-workers 2 --resume" in text
    assert "Traceback" not in text
    assert (out / FILE_NAME).stat().st_mtime >= asked_s
    assert driver.running() == {}
    assert left_in(temp_folder) == []

    assert read_info(out).position < STEPS
    result = train_fully(request(out, image_file, quick_metric, resume=True))
    alone = train_fully(request(tmp_path / "alone", image_file, quick_metric))
    assert (result.steps, result.look_steps, len(result.looks)) == (alone.steps, alone.look_steps, len(alone.looks))
    for look, expected in zip(result.looks, alone.looks, strict=True):
        assert look.step == expected.step
        assert look.distance == pytest.approx(expected.distance, abs=1e-3)
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(out)[name], tensor, rtol=0, atol=1e-5)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    with safe_open(folder / FILE_NAME, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith("current/model")}  # noqa: SIM118


def test_what_cannot_be_met_is_told_before_anything_is_started(
    image_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(num_workers: int, **changes: object) -> str:
        with pytest.raises(InputError) as error:
            train_with_workers(request(tmp_path / "out", image_file, "kid_lite0", **changes), num_workers=num_workers)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    monkeypatch.setattr(many_workers, "RaySession", None)
    cores = len(os.sched_getaffinity(0))
    assert "got 32 images for 3 workers: give --batch-size 30 or 33" in refused(3, batch_size=32)
    too_many = refused(cores + 1, batch_size=cores + 1)
    assert f"--num-workers {cores + 1} is more than the {cores} cores of this machine" in too_many
    assert f"give --num-workers {cores} or fewer, or the --address of a Ray cluster" in too_many
    if not torch.cuda.is_available():
        assert "more than the 0 GPUs of this machine: see `autopv doctor`" in refused(2, device="cuda")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        train_with_workers(request(tmp_path, image_file, "kid_lite0"), num_workers=2)


def test_only_what_a_dead_driver_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remains = many_workers.Remains(tmp_path / "out")
    assert remains.get_state("scratch") is None
    remains.set_state("scratch", "there")
    assert remains.get_state("scratch") == "there", "this driver's own, from before"
    (path,) = tmp_path.glob("autopv-train-*.json")
    parent = process(os.getppid())
    assert parent is not None
    path.write_text(json.dumps({"driver": [parent.pid, parent.started], "scratch": "there"}))
    with pytest.raises(InputError, match=f"process {parent.pid} still trains into {tmp_path / 'out'}"):
        remains.get_state("scratch")
    path.write_text(json.dumps({"driver": [parent.pid, parent.started - 1], "scratch": "there"}))
    assert remains.get_state("scratch") == "there", "that number is another process's by now"
    remains.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_why_workers_were_lost_is_told_in_a_line() -> None:
    from ray.exceptions import RayActorError

    from autopv.search.train_adapters import Losses, loss_text

    consequence = RuntimeError("gloo:\nConnection closed by peer")
    assert loss_text({0: consequence, 1: RayActorError()}) == "Worker 2 was lost (killed, or out of memory)"
    assert loss_text({0: consequence}) == "Worker 1 failed (RuntimeError: Connection closed by peer)"
    with pytest.raises(TrainingDiverged, match="not finite"):
        Losses(None).after_exception(None, {0: consequence, 1: TrainingDiverged("not finite")})
