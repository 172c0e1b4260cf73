import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from evaluation_cases import write_parts
from source_cases import write_checkpoint

from autopv.data.class_labels import class_labels
from autopv.data.images import load_images
from autopv.data.splits import split_images
from autopv.errors import DataError
from autopv.evaluation.model_source import ModelSource
from autopv.evaluation.opening import open_sets
from autopv.models.base import build_model
from autopv.models.hvae import Hvae
from autopv.policy.policy import Policy
from autopv.training.checkpoint import FILE_NAME, save_checkpoint
from autopv.training.course import Course
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer

SIZE_PX = 8


def write_trained(
    folder: Path,
    data: Path,
    *,
    seed: int = 0,
    split_seed: int | None = None,
    group_by: str | None = None,
    on_all: bool = False,
    by_class: bool = False,
    course: Course | None = None,
) -> None:
    """A model that was about to be trained on the data's training split, or on all of it."""
    images = load_images(str(data), size_px=SIZE_PX, channels=1, group_by=group_by)
    splits = split_images(images, seed=seed if split_seed is None else split_seed)
    rows = torch.arange(len(images)) if on_all else splits.train
    model = build_model("hvae", preset="tiny", size_px=SIZE_PX, channels=1, num_frames=1, seed=seed)
    trainer = Trainer(
        "hvae",
        preset="tiny",
        size_px=SIZE_PX,
        channels=1,
        policy=Policy.image_only(),
        images_NCHW=images.images_NCHW[rows],
        classes=class_labels(images, rows) if by_class else None,
        plan=TrainingPlan(total_flops=100 * model.flops_per_image(1), batch_size=4),
        seed=seed,
    )
    save_checkpoint(trainer, folder, course=course)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    write_parts(tmp_path / "parts", 120, seed=0)
    return tmp_path / "parts"


def test_the_size_is_that_of_the_generated_images(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "made", 6, seed=1, size_px=12)
    sets = open_sets(str(parts), (str(tmp_path / "made"),))
    assert sets.size_px == 12
    assert any("12 px" in note for note in sets.notes)
    assert sets.train is None


def test_generated_sets_of_several_sizes_need_one_named(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "small", 6, seed=1, size_px=12)
    write_parts(tmp_path / "large", 6, seed=1, size_px=14)
    write_parts(tmp_path / "mixed", 6, seed=1, size_px=14)
    write_parts(tmp_path / "mixed" / "more", 6, seed=1, size_px=15)
    for names in (("small", "large"), ("mixed",)):
        generated = tuple(str(tmp_path / name) for name in names)
        with pytest.raises(DataError, match=r"must have one size.*--size"):
            open_sets(str(parts), generated)
        assert open_sets(str(parts), generated, size_px=12).size_px == 12


def test_real_images_that_must_be_enlarged_are_told(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "made", 6, seed=1, size_px=32)
    sets = open_sets(str(parts), (str(tmp_path / "made"),))
    assert any("enlarged from 16 to 32 px" in note for note in sets.notes)


def test_a_set_named_twice_is_refused(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "made", 6, seed=1)
    made = str(tmp_path / "made")
    for reference, generated, train in ((made, (made,), None), ("x", (made, made), None), ("x", (made,), made)):
        with pytest.raises(DataError, match="named once"):
            open_sets(reference, generated, train=train)


def test_what_a_model_was_trained_on_is_told_from_the_rest(tmp_path: Path, parts: Path) -> None:
    write_trained(tmp_path / "model", parts, seed=3)
    sets = open_sets(str(parts), (str(tmp_path / "model"),), num_samples=8)
    images = load_images(str(parts), size_px=SIZE_PX, channels=1)
    splits = split_images(images, seed=3)
    assert sets.train is not None
    assert sets.reference.names == tuple(images.names[row] for row in splits.final)
    assert sets.train.names == tuple(images.names[row] for row in splits.train)
    assert sets.reference.classes is not None
    assert set(sets.reference.classes) == {"plate", "tube"}
    grey = images.images_NCHW[splits.final].expand(-1, 3, -1, -1)
    read = sets.reference.read(0, len(sets.reference), size_px=SIZE_PX, channels=3)
    assert torch.equal(read.images_NCHW, grey)
    assert len(sets.generated[0]) == 8
    assert any("no training or search has seen" in note for note in sets.notes)


@pytest.mark.parametrize("on_all", [False, True])
def test_what_a_model_of_classes_was_trained_on_is_told_too_and_its_samples_have_classes(
    tmp_path: Path, parts: Path, on_all: bool
) -> None:
    write_trained(tmp_path / "model", parts, by_class=True, on_all=on_all)
    sets = open_sets(str(parts), (str(tmp_path / "model"),), num_samples=128)
    assert (sets.train is None) == on_all
    assert any("trained on every image" in note for note in sets.notes) == on_all
    (model,) = sets.generated
    assert model.classes is not None
    assert Counter(model.classes) == {"plate": 64, "tube": 64}


def test_samples_of_a_model_of_classes_begin_with_the_same_ones_and_are_of_their_class(
    tmp_path: Path, parts: Path
) -> None:
    write_trained(tmp_path / "model", parts, by_class=True)
    few, many = (ModelSource(tmp_path / "model", label="m", num_samples=count, seed=0) for count in (9, 80))
    assert few.classes is not None
    assert many.classes is not None
    assert few.classes == many.classes[:9]
    assert set(few.classes) == {"plate", "tube"}
    read = few.read(0, 9, size_px=SIZE_PX, channels=1).images_NCHW
    assert torch.equal(read, many.read(0, 9, size_px=SIZE_PX, channels=1).images_NCHW)
    model = few._loaded()
    assert isinstance(model, Hvae)
    with torch.no_grad():
        model.of_class[-1].weight[1] = 100.0
    few._latest = None
    changed = (few.read(0, 9, size_px=SIZE_PX, channels=1).images_NCHW != read).flatten(1).any(1)
    assert changed.tolist() == [name == "tube" for name in few.classes]


def test_masks_go_with_the_splits(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", 120, seed=0, with_masks=True)
    write_trained(tmp_path / "model", tmp_path / "parts")
    sets = open_sets(str(tmp_path / "parts"), (str(tmp_path / "model"),), num_samples=8)
    assert sets.train is not None
    assert sets.reference.has_masks
    assert sets.train.has_masks


def test_a_model_trained_on_other_images_is_told(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "others", 120, seed=5)
    write_trained(tmp_path / "model", tmp_path / "others")
    write_parts(tmp_path / "few", 30, seed=5)
    for reference in (parts, tmp_path / "few"):
        sets = open_sets(str(reference), (str(tmp_path / "model"),), num_samples=8)
        assert sets.train is None
        assert sets.reference.label == str(reference)
        assert any("not known" in note and "--train" in note for note in sets.notes)


def test_models_trained_on_different_splits_are_told(tmp_path: Path, parts: Path) -> None:
    for seed in (0, 1):
        write_trained(tmp_path / f"model-{seed}", parts, seed=seed)
    models = (str(tmp_path / "model-0"), str(tmp_path / "model-1"))
    sets = open_sets(str(parts), models, num_samples=8)
    assert sets.train is None
    assert any("not known" in note for note in sets.notes)


def test_named_training_images_are_believed(tmp_path: Path, parts: Path) -> None:
    write_trained(tmp_path / "model", parts)
    write_parts(tmp_path / "seen", 30, seed=5)
    sets = open_sets(str(parts), (str(tmp_path / "model"),), train=str(tmp_path / "seen"), num_samples=8)
    assert sets.train is not None
    assert sets.train.label == str(tmp_path / "seen")
    assert len(sets.reference) == 120


def test_a_run_knows_how_its_images_were_grouped(tmp_path: Path, parts: Path) -> None:
    pattern = r"(\d\d)\d\.png$"  # ten images of one object
    write_trained(tmp_path / "run" / "model", parts, group_by=pattern)
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format_version": 1, "group_by": pattern}))
    run = str(tmp_path / "run")
    sets = open_sets(str(parts), (run,), num_samples=8)
    assert sets.train is not None
    assert sets.train.label.endswith("(train split)")
    within = open_sets(str(parts), (str(tmp_path / "run" / "model"),), num_samples=8)
    assert within.train is not None
    # A checkpoint alone does not, but can be told.
    model = str(tmp_path / "copied")
    shutil.copytree(tmp_path / "run" / "model", model)
    assert open_sets(str(parts), (model,), num_samples=8).train is None
    assert open_sets(str(parts), (model,), num_samples=8, group_by=pattern).train is not None


def test_a_full_training_knows_how_its_images_were_grouped(tmp_path: Path, parts: Path) -> None:
    pattern = r"(\d\d)\d\.png$"
    course = Course(
        data=str(parts),
        group_by=pattern,
        trained_on="train",
        num_looks=1,
        fractions=(1.0,),
        patience=0,
        metric=None,
        floor=None,
        log_folder="logs",
    )
    write_trained(tmp_path / "model", parts, group_by=pattern, course=course)
    sets = open_sets(str(parts), (str(tmp_path / "model"),), num_samples=8)
    assert sets.train is not None


def test_a_model_that_has_seen_every_image_is_told(tmp_path: Path, parts: Path) -> None:
    write_trained(tmp_path / "all", parts, on_all=True)
    write_trained(tmp_path / "split", parts)
    for models in (("all",), ("split", "all")):
        sets = open_sets(str(parts), tuple(str(tmp_path / name) for name in models), num_samples=8)
        assert sets.train is None
        assert len(sets.reference) == 120
        (note,) = (note for note in sets.notes if "every image" in note)
        assert f"{tmp_path / 'all'} was trained on every image of {parts}" in note
        assert "--train" in note
        assert not any("no training or search has seen" in note for note in sets.notes)


def test_a_full_training_stands_for_the_model_of_its_best_look(tmp_path: Path, parts: Path) -> None:
    out = tmp_path / "out"
    write_trained(out, parts, seed=1)
    write_trained(out / "best", parts, seed=0)
    for name, seed, is_told in ((out, 0, True), (out / "best", 0, False), (out / FILE_NAME, 1, False)):
        sets = open_sets(str(parts), (str(name),), num_samples=8)
        (model,) = sets.generated
        assert isinstance(model, ModelSource)
        assert model.info.seed == seed
        assert any("best look" in note for note in sets.notes) == is_told


def test_a_run_splits_by_its_own_seed_and_trains_from_others(tmp_path: Path, parts: Path) -> None:
    write_trained(tmp_path / "run" / "model", parts, seed=11, split_seed=4)
    model = str(tmp_path / "run" / "model")
    assert open_sets(str(parts), (model,), num_samples=8).train is None
    (tmp_path / "run" / "run.json").write_text(json.dumps({"format_version": 1, "group_by": None, "seed": 4}))
    assert open_sets(str(parts), (str(tmp_path / "run"),), num_samples=8).train is not None


def test_a_model_gives_more_samples_than_a_small_reference_has(tmp_path: Path, parts: Path) -> None:
    write_checkpoint(tmp_path / "model")
    sets = open_sets(str(parts), (str(tmp_path / "model"),))
    assert len(sets.generated[0]) == 512


def test_wishes_that_would_change_nothing_are_refused(tmp_path: Path, parts: Path) -> None:
    write_parts(tmp_path / "made", 6, seed=1)
    write_checkpoint(tmp_path / "model")
    made, model = str(tmp_path / "made"), str(tmp_path / "model")
    with pytest.raises(DataError, match="--samples"):
        open_sets(str(parts), (made,), num_samples=10)
    with pytest.raises(DataError, match="--group-by"):
        open_sets(str(parts), (made,), group_by="x")
    with pytest.raises(DataError, match="--group-by"):
        open_sets(str(parts), (model,), train=made, num_samples=10, group_by="x")


def test_a_set_that_is_missing_is_told_with_its_role(tmp_path: Path, parts: Path) -> None:
    with pytest.raises(DataError, match="the reference"):
        open_sets(str(tmp_path / "none"), (str(parts),))
    write_parts(tmp_path / "made", 6, seed=1)
    with pytest.raises(DataError, match="--train"):
        open_sets(str(parts), (str(tmp_path / "made"),), train=str(tmp_path / "none"))
