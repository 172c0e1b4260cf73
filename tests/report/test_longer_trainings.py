"""A run for a training longer than its trials, and what another search may take from a run."""

import json
from pathlib import Path

import pytest
from made_runs import Recipe, RunMaker, write_ramps

from autopv.policy import Policy
from autopv.report.summary import summary_text
from autopv.search.run_folder import RunFolder
from autopv.search.study_file import read_records
from autopv.search.target import given_policies

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> RunMaker:
    return RunMaker(write_ramps(tmp_path_factory.mktemp("data") / "ramps.npy"))


@pytest.fixture(scope="module")
def brief(maker: RunMaker, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Trials of 400 steps in which pseudo video helps, as long as the training."""
    return maker.make(tmp_path_factory.mktemp("runs") / "brief", Recipe(gain=0.5, train_steps=400))


def result_of(folder: RunFolder) -> dict[str, object]:
    return json.loads(folder.result.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_a_policy_that_helps_in_trials_as_long_as_the_training_is_recommended(brief: RunFolder) -> None:
    result = result_of(brief)
    assert result["verdict"]["conclusion"] == "pseudo video helps"  # type: ignore[index]
    assert result["outlook"] is None
    assert not Policy.load(brief.policy).is_image_only


def test_one_that_helps_in_trials_is_not_recommended_for_a_training_of_which_they_tell_nothing(
    maker: RunMaker, tmp_path: Path
) -> None:
    folder = maker.make(tmp_path / "run", Recipe(gain=0.5, train_steps=400 * 64))
    result = result_of(folder)
    verdict = result["verdict"]
    assert verdict["conclusion"] == "not enough evidence"  # type: ignore[index]
    sentence = verdict["sentence"]  # type: ignore[index]
    assert "Pseudo video helps" in sentence, "what was seen is told"
    assert "64 times as long as a trial" in sentence
    assert "no more than a guess" in sentence
    assert Policy.load(folder.policy).is_image_only
    assert not Policy.load(folder.best_found).is_image_only, "what was found is kept"
    text = summary_text(result, folder=folder.path)
    assert text.count("64 times as long") == 1
    assert "after 25600 steps" in text


def test_every_policy_that_ran_to_its_end_has_an_expectation(brief: RunFolder) -> None:
    result = result_of(brief)
    expected = {entry["trial"]: entry for entry in result["expected"]}  # type: ignore[attr-defined]
    complete = [record for record in read_records(brief.study) if record.distance is not None]
    assert set(expected) == {record.key for record in complete}
    for entry in expected.values():
        change, low, high = entry["change"]
        assert low <= change <= high
        assert entry["num_runs"] >= 1
    assert result["best_found"]["num_runs"] == expected[result["best_found"]["trial"]]["num_runs"]  # type: ignore[index]


def test_another_search_takes_the_policies_of_a_run_the_best_first(brief: RunFolder, tmp_path: Path) -> None:
    found = [policy for _, policy in given_policies([str(brief.path)])]
    records = {r.policy.digest: r for r in read_records(brief.study) if r.distance is not None}
    assert {policy.digest for policy in found} == {d for d, r in records.items() if not r.policy.is_image_only}
    best = Policy.load(brief.best_found)
    controls = {r.policy.digest for r in records.values() if r.control is not None}
    assert next(policy for policy in found if policy.digest not in controls).digest == best.digest
    # Of two sources each gives its best before either gives its second.
    other = Policy.parse("T=3 order=1 fresh weight=0.1: erase area=0.3 linear 1-2")
    other.save(tmp_path / "other.json")
    mixed = [policy for _, policy in given_policies([str(brief.path), str(tmp_path / "other.json")])]
    assert mixed[:2] == [found[0], other]
