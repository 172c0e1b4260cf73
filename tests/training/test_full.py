import dataclasses
import json

import pytest
import torch
from full_cases import METRIC, Heard, Killed, contents, interrupt, request, same_contents
from training_cases import same_weights

from autopv.data.images import load_images
from autopv.data.splits import split_images
from autopv.errors import CheckpointError, InputError, TrainingDiverged
from autopv.metrics.metric import make_metric
from autopv.models.base import build_model
from autopv.policy import Policy
from autopv.training import full
from autopv.training.checkpoint import FILE_NAME, load_generator, read_info
from autopv.training.full import train_fully
from autopv.training.measure import measure
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer, training_digest


@pytest.mark.slow
def test_it_is_measured_at_halvings_of_its_compute_and_told_at_which_cost(undisturbed):
    _, result, heard = undisturbed
    assert [(look.fraction, look.step) for look in result.looks] == [(0.125, 2), (0.25, 5), (0.5, 10), (1.0, 20)]
    assert heard.looks == list(result.looks)
    assert (result.steps, result.total_steps, result.ended) == (20, 20, "compute")
    # The decays that are taken back: steps 2, 5 and 8 to 10.
    assert result.look_steps == heard.beginnings[0].look_steps == 5
    assert result.looks[-1].steps_done == 25
    assert result.best == min(result.looks, key=lambda look: look.distance)
    assert result.excess == result.best.distance - result.floor
    assert json.loads(json.dumps(result.to_dict()))["looks"][3]["step"] == 20


@pytest.mark.slow
def test_what_is_left_behind(undisturbed):
    out, _, _ = undisturbed
    assert sorted(path.name for path in out.iterdir()) == [
        "best",
        FILE_NAME,
        "logs",
        "policy.json",
        *(f"step-{step:06d}" for step in (4, 8, 12, 16, 20)),
    ]
    assert read_info(out).resumable
    assert read_info(out).position == 20
    assert not read_info(out / "best").resumable
    # The whole state is weights, averages, two moments; twice, while a decay can be taken back.
    assert (out / "best" / FILE_NAME).stat().st_size < (out / FILE_NAME).stat().st_size / 6


@pytest.mark.slow
def test_the_best_looks_model_is_sampled_and_others_are_picked_by_name(undisturbed, images):
    out, result, _ = undisturbed
    model, info = load_generator(out)
    assert info.position == result.best.step
    data = load_images(str(images), size_px=8)
    splits = split_images(data, seed=0)
    search = data.images_NCHW[splits.search]
    metric = make_metric(METRIC, search, data_digest=data.digest, num_images=22, num_generated=66)
    assert measure(model, metric, seed=0) == result.best.distance
    assert load_generator(out / FILE_NAME)[1].position == 20
    assert load_generator(out / "step-000008")[1].position == 8
    assert same_weights(model, load_generator(out / "best")[0])


@pytest.mark.slow
def test_kept_models_are_the_trainings_own_and_not_a_looks(undisturbed, images):
    out, _, _ = undisturbed
    info = read_info(out)
    data = load_images(str(images), size_px=8)
    trainer = Trainer(
        info.model_name,
        preset=info.preset,
        size_px=8,
        channels=1,
        policy=info.policy,
        images_NCHW=data.images_NCHW[split_images(data, seed=0).train],
        plan=info.plan,
        seed=0,
    )
    for step in (4, 8, 12):
        trainer.train_until(step / 20)
        assert same_weights(trainer.learner.averaged_model(), load_generator(out / f"step-{step:06d}")[0])
    assert same_weights(trainer.annealed_look(1.0), load_generator(out / "step-000020")[0])


# In steps of the training, trunk and decay of each look: 1 | 2, 2-4 | 5, 5-7 | 8-10, 8-14 | 15-20.
@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 11, 12])
def test_interrupted_at_any_step_it_ends_bit_for_bit_the_same(
    undisturbed, images, tmp_path, at_step, heard_interrupts, monkeypatch, step
):
    out = tmp_path / "out"
    with monkeypatch.context():
        at_step(step, lambda _: interrupt())
        with pytest.raises(KeyboardInterrupt):
            train_fully(request(images, out, keep_every=4))
    assert read_info(out).steps_done == step, "the step under way is done and saved"
    monkeypatch.undo()
    ended_alike(undisturbed, train_fully(request(images, out, keep_every=4, resume=True)), out)


@pytest.mark.slow
@pytest.mark.parametrize("look", [3, 4])
def test_interrupted_right_after_a_look_it_ends_the_same(undisturbed, images, tmp_path, heard_interrupts, look):
    out = tmp_path / "out"

    def stop(number):
        if number == look:
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        train_fully(request(images, out, keep_every=4), listener=Heard(stop))
    assert len(read_info(out).course.looks) == look
    again = Heard()
    ended_alike(undisturbed, train_fully(request(images, out, keep_every=4, resume=True), listener=again), out)
    assert len(again.looks) == 4 - look, "looks that were taken are not taken again"
    assert again.beginnings[0].look_steps == 0, "no decay that is taken back is ahead any more"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["measuring", "between the best model and its record"])
def test_interrupted_or_killed_in_a_look_it_ends_the_same(
    undisturbed, images, tmp_path, heard_interrupts, monkeypatch, place
):
    out = tmp_path / "out"
    real, calls = full.sample_with_labels, []

    def sample(model, *, num_images, seed):
        calls.append(None)
        if len(calls) == 3:
            interrupt()
        return real(model, num_images=num_images, seed=seed)

    real_save = full.save_checkpoint

    def save(trainer, folder, *, course):
        if len(course.looks) == 3:
            raise Killed
        return real_save(trainer, folder, course=course)

    if place == "measuring":
        monkeypatch.setattr(full, "sample_with_labels", sample)
    else:
        monkeypatch.setattr(full, "save_checkpoint", save)
    with pytest.raises((KeyboardInterrupt, Killed)):
        train_fully(request(images, out, keep_every=4))
    assert len(read_info(out).course.looks) == 2
    monkeypatch.undo()
    ended_alike(undisturbed, train_fully(request(images, out, keep_every=4, resume=True)), out)


@pytest.mark.slow
def test_killed_it_goes_on_from_the_last_timed_checkpoint(undisturbed, images, tmp_path, at_step, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(full, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(full, "_SAVING_SHARE", 1e9)

    def kill(trainer):
        raise Killed

    at_step(9, kill)
    with pytest.raises(Killed):
        train_fully(request(images, out, keep_every=4))
    assert read_info(out).steps_done == 8
    (out / f".{FILE_NAME}.123.part").write_bytes(b"half")
    monkeypatch.undo()
    ended_alike(undisturbed, train_fully(request(images, out, keep_every=4, resume=True)), out)


def ended_alike(undisturbed, result, out):
    straight, expected, _ = undisturbed
    assert dataclasses.replace(result, took_s=0) == dataclasses.replace(expected, took_s=0)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in straight.iterdir())
    for folder in ("", "best", "step-000004", "step-000020"):
        assert same_contents(straight / folder, out / folder), folder


def worse_and_worse(monkeypatch, distances):
    """Replaces the metric's answers by these: when models get worse cannot be had on demand."""
    left = list(distances)
    monkeypatch.setattr("autopv.metrics.metric.LastFrameMetric.distance", lambda _metric, _images: left.pop(0))


@pytest.mark.slow
def test_it_ends_early_when_looks_bring_nothing_better_also_across_interruptions(
    images, tmp_path, monkeypatch, heard_interrupts
):
    worse_and_worse(monkeypatch, [5.0, 3.0, 4.0])
    straight = train_fully(request(images, tmp_path / "straight", patience=1))
    assert (straight.ended, straight.best.distance, straight.steps) == ("patience", 3.0, 10)
    assert len(straight.looks) == 3
    for look in (2, 3):
        out = tmp_path / f"stopped-{look}"
        worse_and_worse(monkeypatch, [5.0, 3.0, 4.0])
        with pytest.raises(KeyboardInterrupt):
            train_fully(
                request(images, out, patience=1), listener=Heard(lambda n, look=look: n == look and interrupt())
            )
        resumed = train_fully(request(images, out, patience=1, resume=True))
        assert dataclasses.replace(resumed, took_s=0) == dataclasses.replace(straight, took_s=0)
        assert same_contents(tmp_path / "straight", out)
        assert same_contents(tmp_path / "straight" / "best", out / "best")


@pytest.mark.slow
def test_without_patience_it_trains_to_the_end(images, tmp_path, monkeypatch):
    worse_and_worse(monkeypatch, [1.0, 2.0, 3.0, 4.0])
    result = train_fully(request(images, tmp_path / "out", patience=0))
    assert (result.ended, result.best.step, result.steps) == ("compute", 2, 20)
    assert load_generator(tmp_path / "out")[1].position == 2


@pytest.mark.slow
def test_one_look_is_the_end_and_costs_nothing_more(images, tmp_path):
    result = train_fully(request(images, tmp_path / "out", num_looks=1))
    assert [look.step for look in result.looks] == [20]
    assert result.look_steps == 0


@pytest.mark.slow
def test_all_images_are_learnt_from_and_none_is_measured_by(images, tmp_path):
    heard = Heard()
    result = train_fully(request(images, tmp_path / "out", metric="auto", all_images=True), listener=heard)
    data = load_images(str(images), size_px=8)
    info = read_info(tmp_path / "out")
    assert info.data_digest == training_digest(data.images_NCHW, None)
    assert info.course.trained_on == "all"
    assert (result.num_train_images, result.steps, result.look_steps) == (110, 20, 0)
    assert (result.best, result.floor, result.metric, result.excess) == (None, None, None, None)
    assert [look.distance for look in result.looks] == [None]
    assert not (tmp_path / "out" / "best").exists()
    assert load_generator(tmp_path / "out")[1].position == 20


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"all_images": True, "metric": "auto", "num_looks": 2}, "--looks 2 would change nothing"),
        ({"all_images": True, "metric": "auto", "patience": 0}, "--patience 0 would change nothing"),
        ({"all_images": True}, "--metric fd_full_cases:network would change nothing"),
        ({"force": True}, "--force"),
        ({"steps": 0}, "steps >= 1"),
        ({"num_looks": 0}, "num_looks >= 1"),
        ({"patience": -1}, "patience >= 0"),
        ({"keep_every": 0}, "keep_every >= 1"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        request("data", tmp_path / "out", **changes)


def test_a_folder_that_holds_something_is_left_alone(images, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        train_fully(request(images, tmp_path))
    with pytest.raises(CheckpointError, match=f"holds no {FILE_NAME}"):
        train_fully(request(images, tmp_path, resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_it_and_the_last_good_checkpoint_stands(images, tmp_path, at_step):
    out = tmp_path / "out"

    def spoil(trainer):
        next(trainer.learner.model.parameters()).data.fill_(torch.nan)

    at_step(10, spoil)
    with pytest.raises(TrainingDiverged, match=r"is not at step 9 .* the last good checkpoint, of step 5, stands in"):
        train_fully(request(images, out))
    header, tensors = contents(out)
    assert header["steps_done"] == 6
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.slow
def test_samples_that_are_not_finite_end_it_as_a_failed_run(images, tmp_path, monkeypatch):
    def sample(_model, num_images, **_):
        return torch.full((num_images, 1, 8, 8), torch.nan)

    model = build_model("hvae", preset="tiny", size_px=8, channels=1, num_frames=1, seed=0)
    monkeypatch.setattr(type(model), "sample_last_frame", sample)
    with pytest.raises(TrainingDiverged, match="the model of step 2 cannot be measured") as failed:
        train_fully(request(images, tmp_path / "out"))
    assert failed.value.exit_code == 1


def test_a_gpu_that_is_not_there_is_told(images, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="doctor"):
        train_fully(request(images, tmp_path / "out", device="cuda"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_compute_is_that_of_image_only_steps(images, tmp_path):
    result = train_fully(request(images, tmp_path / "out", policy=Policy.image_only(), steps=7, num_looks=1))
    assert result.total_steps == 7
    assert isinstance(read_info(tmp_path / "out").plan, TrainingPlan)
