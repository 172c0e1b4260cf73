"""Going on with a full training under other settings, which must be forced, and with a disk that is full."""

import contextlib
import shutil
from dataclasses import replace

import pytest
from full_cases import Heard, image_only_steps, request, same_contents, write_images
from training_cases import noise_policy, rewrite

from autopv.errors import CheckpointError, InputError, StorageError
from autopv.training import checkpoint
from autopv.training.checkpoint import BEST_FOLDER, FILE_NAME, load_generator, read_info, save_checkpoint
from autopv.training.full import train_fully


@pytest.fixture(scope="module")
def halfway(images, tmp_path_factory):
    """The folder of a training that was stopped after its second look, of step 5, whose decay began at step 4."""
    out = tmp_path_factory.mktemp("halfway") / "out"
    with pytest.raises(Stopped):
        train_fully(request(images, out), listener=Heard(stop_after_two))
    return out


class Stopped(Exception):
    """Ends a training from its listener."""


def stop_after_two(number):
    if number == 2:
        raise Stopped


@pytest.fixture
def copy(halfway, tmp_path):
    """A copy of that folder, to go on in."""
    return shutil.copytree(halfway, tmp_path / "copy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": noise_policy(weight=0.2)}, r"policy \(--policy\) was .*weight=0\.1.* but is now .*weight=0\.2"),
        ({"steps": image_only_steps(40)}, r"plan\.total_flops \(--steps\) was"),
        ({"seed": 1}, r"seed \(--seed\) was 0, but is now 1; data_digest"),
        ({"num_looks": 2}, r"num_looks \(--looks\) was 4, but is now 2.*nothing is lost"),
        ({"patience": 1}, r"patience \(--patience\) was 2, but is now 1"),
        ({"metric": "kid_full_cases:network"}, r"metric \(--metric\) was fd_full_cases:network.* kid_full_cases"),
        ({"metric": "auto", "all_images": True}, r"trained_on \(--all-images\) was train, but is now all"),
    ],
)
def test_other_settings_are_refused_and_named_all_at_once(copy, images, changes, says):
    before = (copy / FILE_NAME).read_bytes()
    with pytest.raises(CheckpointError, match=says) as refused:
        train_fully(request(images, copy, resume=True, **changes))
    assert "--force" in str(refused.value)
    assert (copy / FILE_NAME).read_bytes() == before


@pytest.mark.slow
def test_another_version_of_autopv_is_refused_unless_forced_which_costs_nothing(copy, images, undisturbed):
    rewrite(copy / FILE_NAME, autopv_version="9.9")
    with pytest.raises(CheckpointError, match=r"autopv_version was 9\.9, but is now .*nothing is lost"):
        train_fully(request(images, copy, resume=True))
    heard = Heard()
    result = train_fully(request(images, copy, resume=True, force=True), listener=heard)
    assert "autopv_version" in " ".join(heard.notes)
    assert result.looks == undisturbed[1].looks


@pytest.mark.slow
def test_another_torch_is_told_and_gone_on_with(copy, images):
    rewrite(copy / FILE_NAME, torch_version="9.9")
    heard = Heard()
    assert len(train_fully(request(images, copy, resume=True), listener=heard).looks) == 4
    assert any("torch 9.9 on cpu" in note and "not bit for bit" in note for note in heard.notes)


@pytest.mark.slow
def test_more_patience_or_other_looks_keep_what_was_found(copy, images):
    kept = read_info(copy).course.looks
    heard = Heard()
    result = train_fully(request(images, copy, resume=True, force=True, num_looks=2, patience=0), listener=heard)
    assert result.looks[:2] == kept
    assert [look.step for look in result.looks] == [2, 5, 10, 20]
    assert (read_info(copy).course.num_looks, read_info(copy).course.patience) == (2, 0)
    assert not any("Forgotten" in note or "Dropped" in note for note in heard.notes)
    again = train_fully(request(images, copy, resume=True, num_looks=2, patience=0))
    assert again.looks == result.looks, "what was forced is the training's own from then on"


@pytest.mark.slow
def test_a_longer_training_goes_on_from_the_trunk_and_tells_what_it_drops(copy, images):
    best = load_generator(copy)[1]
    heard = Heard()
    longer = request(images, copy, resume=True, force=True, steps=image_only_steps(40))
    result = train_fully(longer, listener=heard)
    told = " ".join(heard.notes)
    assert "Dropped: the decay of 1 steps" in told
    assert "Forgotten: the 2 looks so far" in told
    kept = copy / f"{BEST_FOLDER}-before-step-000004"
    assert str(kept) in told
    assert load_generator(kept)[1] == best
    # The look at 5 of 40 steps would have to begin at step 4, where the trunk stands.
    assert [look.step for look in result.looks] == [5, 10, 20, 40]
    assert read_info(copy).course.log_folder == "logs/from-step-000004"
    assert (copy / "logs" / "from-step-000004" / "trunk").is_dir()
    assert train_fully(replace(longer, force=False)).looks == result.looks


@pytest.mark.slow
def test_looks_that_the_trunk_has_passed_are_left_out(copy, images):
    train_fully(request(images, copy, resume=True))
    result = train_fully(request(images, copy, resume=True, force=True, steps=image_only_steps(30)))
    assert [look.step for look in result.looks] == [30]
    with pytest.raises(InputError, match=r"begins its last decay at step 7, but that in .* is already at step 21"):
        train_fully(request(images, copy, resume=True, force=True, steps=image_only_steps(10)))


@pytest.mark.slow
def test_other_images_may_be_gone_on_with(copy, tmp_path):
    others = write_images(tmp_path / "others.npz", seed=1)
    with pytest.raises(CheckpointError, match=r"data_digest \(--data\).*metric \(--metric\).*data_digest"):
        train_fully(request(others, copy, resume=True))
    result = train_fully(request(others, copy, resume=True, force=True, num_looks=1))
    assert [look.step for look in result.looks] == [20]


@pytest.mark.slow
def test_another_model_is_refused_even_when_forced(copy, images):
    with pytest.raises(CheckpointError, match=r"policy\.num_frames=2"):
        train_fully(request(images, copy, resume=True, force=True, policy=noise_policy(num_frames=3)))


@pytest.mark.slow
def test_a_model_alone_and_a_searchs_trial_are_not_resumed(copy, images, make_trainer, tmp_path):
    with pytest.raises(CheckpointError, match="no training to go on with"):
        checkpoint.resume_checkpoint(make_trainer(), copy / BEST_FOLDER)
    save_checkpoint(make_trainer(), tmp_path / "trial")
    with pytest.raises(CheckpointError, match="of a search's trial"):
        train_fully(request(images, tmp_path / "trial", resume=True))


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_last_good_checkpoint_and_tells_what_to_do(
    images, tmp_path, at_step, file_size_limit, undisturbed, monkeypatch
):
    out = tmp_path / "out"
    # Within a look the state is twice as large as before it: that one does not fit any more.
    with contextlib.ExitStack() as limits:
        at_step(1, lambda _: limits.enter_context(file_size_limit((out / FILE_NAME).stat().st_size * 3 // 2)))
        with pytest.raises(StorageError) as failed:
            train_fully(request(images, out, keep_every=4))
    message = str(failed.value)
    assert failed.value.exit_code == 1
    assert f"{out / FILE_NAME} could not be written" in message
    assert "File too large" in message
    assert " MB are free there" in message
    assert f"the last good checkpoint, of step 0, stands in {out}" in message
    assert "--resume" in message
    assert sorted(path.name for path in out.iterdir()) == [FILE_NAME, "policy.json"], "nothing half-made is left"
    assert read_info(out).position == 0
    monkeypatch.undo()
    assert train_fully(request(images, out, keep_every=4, resume=True)).looks == undisturbed[1].looks
    assert same_contents(undisturbed[0], out)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_told(images, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"could not be written \(.*Not a directory.*nothing could be saved in"):
        train_fully(request(images, tmp_path / "file" / "out"))
