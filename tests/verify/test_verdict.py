"""Each verdict from the evidence that calls for it."""

from collections.abc import Mapping, Sequence

from autopv.policy import Policy
from autopv.verify.blocks import Arm, Distance, complete_blocks, fresh_seeds
from autopv.verify.verdict import Verdict, reach_verdict


def verdict(
    distances: Mapping[str, Sequence[float | None]], *, floor: float = 100.0, looked_after: Sequence[int] = ()
) -> Verdict:
    arms = [Arm(name=name, kind="control", policy=Policy.image_only()) for name in distances]
    results = [
        Distance(arm=name, seed=seed, distance=value)
        for name, values in distances.items()
        for seed, value in enumerate(values)
    ]
    return reach_verdict(arms, results, floor=floor, trained_for="400 steps", looked_after=looked_after)


def test_a_clear_gain_is_recommended_and_names_its_training_length() -> None:
    result = verdict({"image-only": [300, 302, 298], "blur": [250, 251, 252], "noise": [299, 303, 300]})
    assert (result.conclusion, result.recommended) == ("pseudo video helps", "blur")
    assert "-24%" in result.sentence
    assert "400 steps" in result.sentence
    assert "noise" not in result.sentence


def test_an_arm_as_good_as_the_best_is_named_as_a_tie() -> None:
    result = verdict({"image-only": [300, 304, 298], "blur": [250, 251, 255], "pixelate": [251, 252, 254]})
    assert "Not told apart from it: pixelate" in result.sentence


def test_a_difference_inside_the_noise_is_no_gain() -> None:
    result = verdict({"image-only": [300, 340, 270], "blur": [310, 290, 285], "noise": [280, 330, 300]})
    assert (result.conclusion, result.recommended) == ("no gain shown", "image-only")


def test_when_every_arm_is_worse_it_says_so() -> None:
    result = verdict({"image-only": [300, 301, 299], "blur": [350, 352, 351], "noise": [361, 360, 362]})
    assert (result.conclusion, result.recommended) == ("pseudo video hurts", "image-only")


def test_two_seeds_are_not_enough_evidence_however_large_the_gain() -> None:
    result = verdict({"image-only": [300, 301], "blur": [150, 151]})
    assert (result.conclusion, result.recommended) == ("not enough evidence", "image-only")
    assert "2 fresh seeds" in result.sentence


def test_a_verdict_that_was_looked_at_before_says_so() -> None:
    distances = {"image-only": [300, 302, 298, 301], "blur": [250, 251, 252, 250]}
    assert "after 3 seeds" in verdict(distances, looked_after=[2, 3, 4]).sentence
    assert "Looked at before" not in verdict(distances, looked_after=[2, 4]).sentence


def test_where_every_video_failed_the_sentence_blames_no_seeds() -> None:
    result = verdict({"image-only": [300, 301, 299], "blur": [None, 250, 251]})
    assert (result.conclusion, result.recommended) == ("not enough evidence", "image-only")
    assert "nothing to compare" in result.sentence
    assert "an interval needs" not in result.sentence
    assert "Left out, because a run failed: blur" in result.sentence


def test_without_any_run_there_is_not_enough_evidence() -> None:
    assert verdict({"image-only": [], "blur": []}).conclusion == "not enough evidence"


def test_an_incomplete_block_is_ignored() -> None:
    result = verdict({"image-only": [300, 302, 298, 1000], "blur": [250, 251, 252]})
    assert result.seeds == (0, 1, 2)
    assert result.comparisons[0].mean_distance == 300


def test_an_arm_with_a_failed_run_is_left_out_and_named() -> None:
    result = verdict({"image-only": [300, 302, 298], "blur": [250, None, 252], "noise": [301, 299, 300]})
    assert result.recommended == "image-only"
    assert result.failed == ("blur",)
    assert "blur" in result.sentence


def test_image_only_at_the_floor_leaves_nothing_to_gain() -> None:
    result = verdict({"image-only": [99, 100, 100], "blur": [98, 99, 97]})
    assert (result.conclusion, result.recommended) == ("no gain shown", "image-only")


def test_fresh_seeds_are_distinct_and_fixed_by_the_job() -> None:
    assert fresh_seeds(0, num_seeds=5)[:3] == fresh_seeds(0, num_seeds=3)
    assert len({*fresh_seeds(0, num_seeds=50), *fresh_seeds(1, num_seeds=50)}) == 100


def test_a_block_is_complete_when_every_arm_has_ended() -> None:
    results = [Distance(arm="a", seed=1, distance=1.0), Distance(arm="b", seed=2, distance=None)]
    results += [Distance(arm="a", seed=2, distance=1.0)]
    assert complete_blocks(results, arms=["a", "b"]) == (2,)
