import io

import numpy as np
import pytest
from event_files import read_events
from full_cases import interrupt, request
from PIL import Image

from autopv.errors import StorageError
from autopv.training.event_log import EventLog
from autopv.training.full import train_fully


@pytest.fixture
def log(tmp_path):
    log = EventLog(tmp_path / "logs")
    yield log
    log.close()


def test_nothing_is_written_before_it_is_flushed(log, tmp_path):
    log.scalars("trunk", {"loss/total": 1.5}, step=3)
    assert not (tmp_path / "logs").exists()
    log.flush()
    assert read_events(tmp_path / "logs") == [("trunk", "loss/total", 3, 1.5)]
    log.flush()
    assert len(read_events(tmp_path / "logs")) == 1


def test_pictures_come_back_as_they_were(log, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    log.picture("looks", "samples", picture, step=1)
    log.flush()
    ((_, _, _, png),) = read_events(tmp_path / "logs")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), picture)


def test_a_quick_second_launch_overwrites_nothing(log, tmp_path):
    second = EventLog(tmp_path / "logs")
    for number, one in enumerate((log, second)):
        one.scalars("trunk", {"loss/total": float(number)}, step=number + 1)
        one.flush()
    second.close()
    assert [value for *_, value in read_events(tmp_path / "logs")] == [0.0, 1.0]


def test_a_full_disk_is_told(log, tmp_path, file_size_limit):
    log.picture("looks", "samples", np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8), step=1)
    with file_size_limit(4096):
        with pytest.raises(StorageError, match=r"logs could not be written \(.*too large"):
            log.flush()
        log.close()


@pytest.mark.slow
def test_an_interrupted_training_logs_every_step_once_and_every_look_with_its_samples(
    images, tmp_path, at_step, heard_interrupts, monkeypatch
):
    out = tmp_path / "out"
    monkeypatch.setattr("autopv.training.trainer.PROGRESS_EVERY_S", 0.0)  # every step is told, and so logged
    at_step(11, lambda _: interrupt())
    with pytest.raises(KeyboardInterrupt):
        train_fully(request(images, out))
    before = read_events(out / "logs")
    result = train_fully(request(images, out, resume=True))
    events = read_events(out / "logs")
    assert set(before) < set(events)

    def steps(run, tag):
        return [step for one, name, step, _ in events if (one, name) == (run, tag)]

    for tag in ("loss/total", "loss/rate", "learning_rate", "images_per_s"):
        assert steps("trunk", tag) == list(range(1, 15)), "no step is missing and none is there twice"
        assert steps("look-0.125", tag) == [2]
        assert steps("look-0.5", tag) == [8, 9, 10], "the decay that was interrupted"
        assert steps("look-1", tag) == list(range(15, 21))
    name = result.metric
    told = {step: value for run, tag, step, value in events if (run, tag) == ("looks", f"distance/{name}")}
    assert told == pytest.approx({look.step: look.distance for look in result.looks}, rel=1e-6)
    excess = {step: value for run, tag, step, value in events if (run, tag) == ("looks", f"excess/{name}")}
    assert excess == pytest.approx({look.step: look.distance - result.floor for look in result.looks}, rel=1e-5)
    grids = [Image.open(io.BytesIO(png)) for run, tag, _, png in events if (run, tag) == ("looks", "samples")]
    assert [grid.size for grid in grids] == [(8 * (8 * 8 + 2) + 2, 8 * (8 * 8 + 2) + 2)] * 4


@pytest.mark.slow
def test_what_a_killed_training_will_do_again_was_not_logged(images, tmp_path, at_step, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("autopv.training.trainer.PROGRESS_EVERY_S", 0.0)

    def kill(_):
        raise SystemExit  # at step 4 of the trunk, while the last checkpoint is that of the look at step 2

    at_step(4, kill)
    with pytest.raises(SystemExit):
        train_fully(request(images, out, num_looks=4))
    assert {step for run, *_, step, _ in read_events(out / "logs") if run == "trunk"} == {1}


@pytest.mark.slow
def test_tensorboard_reads_it(undisturbed):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_multiplexer", reason="tensorboard is not installed"
    )
    out, result, _ = undisturbed
    multiplexer = accumulators.EventMultiplexer().AddRunsFromDirectory(str(out / "logs"))
    multiplexer.Reload()
    runs = multiplexer.Runs()
    assert set(runs) == {"trunk", "looks", "look-0.125", "look-0.25", "look-0.5", "look-1"}
    assert runs["looks"]["images"] == ["samples"]
    assert [event.step for event in multiplexer.Scalars("looks", f"distance/{result.metric}")] == [2, 5, 10, 20]
