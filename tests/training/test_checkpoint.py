import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_cases import StopAfter, noise_policy, random_images, rewrite, same_state, same_weights

from autopv.data.class_labels import ClassLabels
from autopv.errors import CheckpointError, ModelError
from autopv.training.checkpoint import FILE_NAME, load_generator, read_info, resume_checkpoint, save_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 7, 8, 10])
def test_a_training_resumed_at_any_step_ends_bit_for_bit_the_same(make_trainer, tmp_path, stop_after):
    straight, killed, resumed = make_trainer(), make_trainer(), make_trainer()
    look = straight.annealed_look(0.5)
    killed.annealed_look(0.5, should_stop=StopAfter(stop_after))
    save_checkpoint(killed, tmp_path)
    resume_checkpoint(resumed, tmp_path)
    assert (resumed.position, resumed.trunk_position) == (killed.position, killed.trunk_position)
    assert same_weights(look, resumed.annealed_look(0.5))
    final = straight.annealed_look(1.0)
    assert same_weights(final, resumed.annealed_look(1.0))
    assert same_state(straight, resumed)
    assert resumed.flops_spent == straight.flops_spent


def test_the_generator_of_a_checkpoint_is_the_looked_at_model(make_trainer, tmp_path):
    trainer = make_trainer()
    look = trainer.annealed_look(0.5)
    save_checkpoint(trainer, tmp_path)
    model, info = load_generator(tmp_path)
    assert same_weights(look, model)
    assert not model.training
    assert (info.policy, info.plan, info.seed, info.data_digest) == (
        trainer.policy,
        trainer.plan,
        trainer.seed,
        trainer.data_digest,
    )
    samples = [m.sample_last_frame(2, generator=torch.Generator().manual_seed(0)) for m in (look, model)]
    assert torch.equal(*samples)


def test_saving_changes_nothing_and_leaves_one_file(make_trainer, tmp_path):
    one, two = make_trainer(), make_trainer()
    for trainer in (one, two):
        trainer.train_until(0.2)
    save_checkpoint(one, tmp_path)
    save_checkpoint(one, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert same_state(one, two)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"policy": noise_policy(weight=0.2)}, "policy"),
        ({"plan_changes": {"learning_rate": 1e-3}}, "plan.learning_rate"),
        ({"plan_changes": {"kl_weight": 2.0}}, "plan.kl_weight"),
        ({"seed": 1}, "seed"),
        ({"images": random_images(seed=1)}, "data_digest"),
    ],
)
def test_another_training_is_refused_unless_forced(make_trainer, tmp_path, change, name):
    trainer = make_trainer()
    trainer.train_until(0.2)
    save_checkpoint(trainer, tmp_path)
    other = make_trainer(**change)
    with pytest.raises(CheckpointError, match=f"training with {name}="):
        resume_checkpoint(other, tmp_path)
    assert other.position == 0
    resume_checkpoint(other, tmp_path, force=True)
    assert same_state(trainer, other)


def test_another_number_of_frames_is_refused_even_when_forced(make_trainer, tmp_path):
    save_checkpoint(make_trainer(), tmp_path)
    with pytest.raises(CheckpointError, match=r"policy\.num_frames=2, but got policy\.num_frames=3"):
        resume_checkpoint(make_trainer(policy=noise_policy(num_frames=3)), tmp_path, force=True)


@pytest.mark.slow
def test_a_finished_training_is_extended_from_its_trunk(make_trainer, tmp_path):
    short = make_trainer(steps=20)
    short.annealed_look(1.0)
    save_checkpoint(short, tmp_path)
    longer = make_trainer(steps=40)
    resume_checkpoint(longer, tmp_path, force=True)
    assert (longer.position, longer.look, longer.steps_done) == (14, None, 20)
    longer.annealed_look(1.0)
    assert (longer.position, longer.steps_done) == (40, 46)


def test_a_missing_checkpoint_is_named(make_trainer, tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere.*does not exist"):
        resume_checkpoint(make_trainer(), tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(make_trainer, tmp_path, share):
    path = save_checkpoint(make_trainer(), tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_generator(tmp_path)


def test_a_newer_format_is_refused_with_the_version_that_reads_it(make_trainer, tmp_path):
    rewrite(save_checkpoint(make_trainer(), tmp_path), format_version=4, autopv_version="9.9")
    with pytest.raises(CheckpointError, match=r"has 4, written by autopv 9\.9"):
        load_generator(tmp_path)


def test_a_foreign_file_is_refused(tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / FILE_NAME)
    with pytest.raises(CheckpointError, match="not a checkpoint of autopv"):
        load_generator(tmp_path)


def test_a_header_with_unknown_keys_is_refused(make_trainer, tmp_path):
    rewrite(save_checkpoint(make_trainer(), tmp_path), surprise=1)
    with pytest.raises(CheckpointError, match="surprise"):
        read_info(tmp_path)


def test_a_checkpoint_without_its_tensors_is_refused(make_trainer, tmp_path):
    path = save_checkpoint(make_trainer(), tmp_path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"current/x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="damaged"):
        resume_checkpoint(make_trainer(), tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_generator(tmp_path)


def test_a_model_whose_package_is_not_installed_names_it(make_trainer, tmp_path):
    path = save_checkpoint(make_trainer(), tmp_path)
    assert read_info(tmp_path).model_package is None, "autopv's own"
    rewrite(path, model_name="theirs", model_package="their-models 1.2")
    assert read_info(tmp_path).model_package == "their-models 1.2"
    with pytest.raises(ModelError, match=r"'theirs', which is not installed .* the package their-models 1\.2"):
        load_generator(tmp_path)


def labels_of(counts, *, names=("crack", "good")):
    """Labels with so many images of each class and, at the end, of none."""
    labels = [label for label, count in zip((0, 1, -1), counts, strict=True) for _ in range(count)]
    return ClassLabels(names, torch.tensor(labels))


@pytest.mark.parametrize("name", ["hvae", "diffusion"])
def test_a_training_by_class_goes_on_bit_for_bit_and_is_sampled_without_the_data(make_trainer, tmp_path, name):
    classes = labels_of((5, 3, 2))
    undisturbed, stopped, resumed = (make_trainer(name=name, classes=classes, steps=8) for _ in range(3))
    undisturbed.annealed_look(1.0)
    stopped.annealed_look(1.0, should_stop=StopAfter(5))
    save_checkpoint(stopped, tmp_path)
    resume_checkpoint(resumed, tmp_path)
    resumed.annealed_look(1.0)
    assert same_state(resumed, undisturbed)
    save_checkpoint(resumed, tmp_path)
    model, info = load_generator(tmp_path)
    assert (info.class_names, info.class_counts) == (("crack", "good"), (5, 3, 2))
    drawn = model.labels_to_sample(None, num_images=10, generator=torch.Generator().manual_seed(0))
    assert sorted(drawn.tolist()) == [-1, -1, 0, 0, 0, 0, 0, 1, 1, 1]


def test_other_classes_or_labels_are_another_training(make_trainer, tmp_path):
    save_checkpoint(make_trainer(classes=labels_of((5, 3, 2))), tmp_path)
    with pytest.raises(CheckpointError, match="classes=crack, good, but got classes=none"):
        resume_checkpoint(make_trainer(), tmp_path)
    with pytest.raises(CheckpointError, match="but got classes=crack, rust"):
        resume_checkpoint(make_trainer(classes=labels_of((5, 3, 2), names=("crack", "rust"))), tmp_path)
    relabelled = make_trainer(classes=labels_of((4, 4, 2)))
    with pytest.raises(CheckpointError, match="data_digest"):
        resume_checkpoint(relabelled, tmp_path)
    resume_checkpoint(relabelled, tmp_path, force=True)


def test_a_file_of_the_format_without_classes_is_read(make_trainer, tmp_path):
    trainer = make_trainer()
    path = save_checkpoint(trainer, tmp_path)
    rewrite(path, without=("class_names", "class_counts"), format_version=2)
    assert read_info(tmp_path).class_names == ()
    resume_checkpoint(make_trainer(), tmp_path)
