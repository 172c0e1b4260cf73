import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_cases import NETWORK, write_parts
from source_cases import write_checkpoint

from autopv.errors import MetricError
from autopv.evaluation.evaluate import EvaluateRequest, Evaluation, evaluate


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real parts, seen and unseen; honest ones, too bright ones, and copies of seen ones."""
    root = tmp_path_factory.mktemp("folders")
    write_parts(root / "real", 48, seed=0)
    write_parts(root / "seen", 48, seed=1)
    write_parts(root / "honest", 48, seed=2)
    write_parts(root / "bright", 32, seed=3, shade=40)
    shutil.copytree(root / "seen", root / "copies")
    write_parts(root / "masked", 48, seed=4, with_masks=True)
    write_parts(root / "masked-seen", 24, seed=5, with_masks=True)
    write_parts(root / "masked-made", 48, seed=6, with_masks=True)
    write_checkpoint(root / "model")
    return root


def run(folders: Path, reference: str, generated: str, **wishes: Any) -> Evaluation:
    named = {key: str(folders / value) for key, value in wishes.items() if key == "train"}
    against = tuple(str(folders / name) for name in wishes.pop("against", ()))
    return evaluate(
        EvaluateRequest(
            reference=str(folders / reference),
            generated=str(folders / generated),
            against=against,
            extractor=NETWORK,
            **{"cache": None} | wishes | named,
        )
    )


@pytest.fixture(scope="module")
def full(folders: Path) -> Evaluation:
    return run(folders, "real", "honest", against=("bright", "copies"), train="seen")


def by_name(record: Mapping[str, Any], part: str) -> dict[str, Any]:
    """What the record tells of each set, by the folder's name."""
    return {Path(label).name: told for label, told in record[part].items()}


def test_the_record_is_json_without_nan(full: Evaluation) -> None:
    text = json.dumps(full.record, allow_nan=False)
    assert json.loads(text) == full.record


def test_every_distance_is_told_with_its_floor_and_error(full: Evaluation) -> None:
    record = full.record
    assert record["num_images"] == 48
    assert record["num_generated"] == 32
    assert not record["is_halved"]
    for told in record["generated"].values():
        for distance in ("fd", "kid"):
            one, floor = told[distance], record["floor"][distance]
            assert one["excess"]["value"] == pytest.approx(one["value"] - floor["value"])
            assert one["low"] < one["value"] < one["high"]
            assert one["standard_error"] > 0
    assert record["metrics"]["fd"] == f"fd_{NETWORK}"
    assert record["extractor"]["size_px"] == 16


def test_worse_images_are_farther_and_honest_ones_at_the_floor(full: Evaluation) -> None:
    told = by_name(full.record, "generated")
    for distance in ("fd", "kid"):
        honest, bright = told["honest"][distance]["excess"], told["bright"][distance]["excess"]
        assert honest["low"] <= 0 <= honest["high"]
        assert bright["low"] > 0


def test_comparisons_name_the_nearer_or_a_tie_with_what_would_resolve_it(full: Evaluation) -> None:
    verdicts = {(Path(one["second"]).name, one["distance"]): one for one in full.record["comparisons"]}
    assert len(verdicts) == 4
    for distance in ("fd", "kid"):
        assert verdicts["bright", distance]["nearer"].endswith("honest")
        assert verdicts["bright", distance]["num_images_to_resolve"] is None
        tie = verdicts["copies", distance]
        assert tie["tie"]
        assert tie["nearer"] is None
        share = (1.959964 * tie["standard_error"] / tie["value"]) ** 2
        assert tie["num_images_to_resolve"] == math.floor(share * 48) + 1 > 48


def test_copies_are_found_and_shown(full: Evaluation) -> None:
    told = by_name(full.record, "generated")
    assert told["copies"]["memorisation"]["num_copies"] == 48
    assert told["copies"]["memorisation"]["p_value"] < 1e-6
    assert told["honest"]["memorisation"]["num_copies"] == 0
    assert told["honest"]["memorisation"]["p_value"] > 0.01
    copies = next(label for label in full.pairs if label.endswith("copies"))
    for generated, train in full.pairs[copies]:
        assert torch.equal(generated, train)
    for pair in told["copies"]["memorisation"]["pairs"]:
        assert pair["generated"] == pair["train"]
    assert any("48 of 48 images are exact copies of the training images" in note for note in full.record["notes"])
    assert by_name(full.record, "sets")["copies"]["num_in_train"] == 48
    assert by_name(full.record, "sets")["honest"]["num_in_train"] == 0


def test_classes_and_usefulness_are_told_where_there_are_classes(full: Evaluation) -> None:
    told = by_name(full.record, "generated")["honest"]
    assert set(told["classes"]["distances"]) == {"plate", "tube"}
    assert told["classes"]["share_distance"] == 0
    assert told["usefulness"]["classes"] == ["plate", "tube"]
    assert told["usefulness"]["num_test"] == 48
    assert told["defects"]["not_applicable"].endswith("put them beside the images")


def test_the_smallest_set_decides_n_and_that_is_told(full: Evaluation) -> None:
    assert any("bright has the fewest images" in note and "32 generated" in note for note in full.record["notes"])


def test_without_training_images_the_reference_is_halved_and_memorisation_unknown(folders: Path) -> None:
    found = run(folders, "real", "honest")
    assert found.record["is_halved"]
    assert found.record["num_images"] == 24
    (told,) = found.record["generated"].values()
    assert "--train" in told["memorisation"]["not_applicable"]
    assert found.pairs == {}
    assert told["usefulness"]["num_train"] == 24
    assert any("halved" in note for note in found.record["notes"])


def test_samples_of_a_model_are_measured(folders: Path) -> None:
    found = run(folders, "real", "model", num_samples=40)
    (told,) = by_name(found.record, "generated").values()
    assert by_name(found.record, "sets")["model"]["num_images"] == 40
    assert told["fd"]["excess"]["low"] > 0
    assert "no classes" in told["classes"]["not_applicable"]
    assert "classes" in told["usefulness"]["not_applicable"]


def test_the_record_is_the_same_whatever_the_cache_holds(folders: Path, tmp_path: Path) -> None:
    wishes: dict[str, Any] = {"train": "seen", "cache": tmp_path}
    cold = run(folders, "real", "model", num_samples=20, **wishes).record
    warm = run(folders, "real", "model", num_samples=20, **wishes).record
    next(tmp_path.glob("*.safetensors")).unlink()
    part = run(folders, "real", "model", num_samples=20, **wishes).record
    none = run(folders, "real", "model", num_samples=20, train="seen").record
    assert cold == warm == part == none


@pytest.mark.slow
def test_other_sets_change_no_number_of_a_set_at_a_given_n(folders: Path) -> None:
    def told(record: Mapping[str, Any]) -> Any:
        return by_name(record, "generated")["honest"]

    alone = run(folders, "real", "honest", train="seen", num_images=32).record
    first = run(folders, "real", "honest", against=("bright", "copies"), train="seen", num_images=32).record
    last = run(folders, "real", "copies", against=("bright", "honest"), train="seen", num_images=32).record
    assert told(alone) == told(first) == told(last)
    assert alone["floor"] == first["floor"] == last["floor"]
    with pytest.raises(MetricError, match="but got n = 49"):
        run(folders, "real", "honest", train="seen", num_images=49)


def test_seeds_change_the_halves(folders: Path) -> None:
    floors = {run(folders, "real", "honest", seed=seed).record["floor"]["fd"]["value"] for seed in (0, 0, 1)}
    assert len(floors) == 2


@pytest.mark.slow
def test_a_set_may_lie_in_a_folder_called_train_or_reference(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folders / "named"
    for name, source in (("reference", "honest"), ("train", "bright"), ("made", "honest")):
        if not (root / name).exists():
            shutil.copytree(folders / source, root / name)
    monkeypatch.chdir(root)
    record = run(folders, "real", "honest", train="seen").record
    for name, generated in (("reference", "honest"), ("train", "bright")):
        found = evaluate(
            EvaluateRequest(
                reference=str(folders / "real"),
                generated=name,
                train=str(folders / "seen"),
                extractor=NETWORK,
                cache=None,
            )
        ).record
        expected = record if generated == "honest" else run(folders, "real", generated, train="seen").record
        assert found["generated"][name]["fd"] == by_name(expected, "generated")[generated]["fd"]
        assert found["generated"][name]["classes"] == by_name(expected, "generated")[generated]["classes"]


def test_generated_sets_of_the_same_images_are_told(folders: Path) -> None:
    record = run(folders, "real", "seen", against=("copies",)).record
    assert any("hold the same images" in note for note in record["notes"])
    assert all(one["tie"] and one["num_images_to_resolve"] is None for one in record["comparisons"])


def test_real_images_on_both_sides_are_told(folders: Path) -> None:
    record = run(folders, "copies", "honest", train="seen").record
    assert any("48 images are in the reference and among the training images" in note for note in record["notes"])
    assert "equal one" in next(iter(record["generated"].values()))["memorisation"]["not_applicable"]


def test_broken_images_are_left_out_and_told(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "honest", tmp_path / "part-broken")
    victim = next((tmp_path / "part-broken" / "tube").iterdir())
    victim.write_bytes(victim.read_bytes()[:60])
    record = run(folders, "real", str(tmp_path / "part-broken"), train="seen").record
    told = by_name(record, "sets")["part-broken"]
    assert told["num_images"] == 47
    assert victim.name in told["skipped"][0]
    assert any("1 broken image was left out" in note for note in record["notes"])


@pytest.mark.slow
def test_defects_with_masks_of_the_real_images_alone_are_covered_or_not(folders: Path) -> None:
    found = run(folders, "masked", "bright", train="masked-seen")
    (told,) = found.record["generated"].values()
    assert told["defects"]["kind"] == "coverage"
    assert told["defects"]["num_defects"] == 24
    assert 0 <= told["defects"]["covered"]["value"] <= 1
    (pictures,) = found.defects.values()
    assert len(pictures) == 8


def test_defects_with_masks_on_both_sides_have_a_distance(folders: Path) -> None:
    found = run(folders, "masked", "masked-made", train="masked-seen")
    (told,) = found.record["generated"].values()
    defects = told["defects"]
    assert defects["kind"] == "distance"
    assert defects["num_defects"] == 12
    for distance in ("fd", "kid"):
        assert abs(defects[distance]["value"] - defects[distance]["floor"]) < 6 * defects[distance]["standard_error"]


def test_progress_is_told_for_features_and_for_what_follows(folders: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    evaluate(
        EvaluateRequest(
            reference=str(folders / "real"), generated=str(folders / "honest"), extractor=NETWORK, cache=None
        ),
        on_progress=lambda what, done, total: heard.append((what, done, total)),
    )
    assert (f"features of {folders / 'real'}", 48, 48) in heard
    assert heard[-1][0].startswith("memorisation")


def test_constant_images_have_documented_results(folders: Path, tmp_path: Path) -> None:
    for number in range(8):
        write_parts(tmp_path / "flat" / f"{number}", 2, seed=0, classes=("plate",), defects=False)
    flat = str(tmp_path / "flat")
    record = run(folders, "real", flat, train="seen").record
    assert by_name(record, "sets")["flat"]["num_duplicates"] == 14
    assert any("14 of 16 images repeat another one exactly" in note for note in record["notes"])
    (told,) = record["generated"].values()
    assert told["fd"]["excess"]["low"] > 0
    with pytest.raises(MetricError, match="at least 4 different images"):
        run(folders, flat, "honest")
