"""The screen tells policies that leave little of the image, and the study tries none of these."""

from pathlib import Path

import pytest
import torch

from autopv.data.images import load_images
from autopv.policy import Policy
from autopv.search.screen import Screen
from autopv.search.study import SearchStudy
from autopv.search.study_file import read_study
from autopv.search.work import Look, Outcome, WorkItem
from autopv.spaces import Space
from autopv.verify.controls import default_controls

SPACE = Space.load("stage2_expressive").for_data(has_masks=False)
MILD = Policy.parse("T=3 order=1 fresh weight=0.1: defocus radius=0.03 linear 1-2")
HARSH = Policy.parse(
    "T=3 order=2 shared weight=0.1: spectral_mask share=0.8 linear 1-2 > gaussian_noise sigma=0.6 linear 1-2"
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return load_images("textures", size_px=8).images_NCHW[::4]


def open_study(path: Path, *, screen: Screen | None, sampler: str = "random") -> SearchStudy:
    controls = default_controls()[:2]
    return SearchStudy(
        path / "study.db", space=SPACE, controls=controls, seed=0, rungs=(1.0,), sampler=sampler, screen=screen
    )


def run(study: SearchStudy, count: int) -> list[WorkItem]:
    """So many trials, each ending at a distance of its own."""
    items = []
    for number in range(count):
        item = study.propose(flops=1.0)
        look = Look(fraction=1.0, distance=500.0 + 7 * (number * 5 % 11), steps=1, flops=1.0)
        study.judge(item, look)
        study.finish(item, Outcome(status="complete", look=look))
        items.append(item)
    return items


def test_a_harsh_policy_leaves_less_than_a_mild_one(images: torch.Tensor) -> None:
    screen = Screen(images, seed=0)
    mild, harsh = screen.left(MILD), screen.left(HARSH)
    assert mild is not None
    assert harsh is not None
    assert harsh < 0.7 < 0.95 < mild
    assert screen.rejects(HARSH)
    assert not screen.rejects(MILD)
    assert not screen.rejects(Policy.image_only()), "it has no frames to look at"


def test_large_images_are_shrunk_and_tell_nearly_the_same(images: torch.Tensor) -> None:
    large = Screen(images.repeat_interleave(6, 2).repeat_interleave(6, 3), seed=0)
    small = Screen(images.repeat_interleave(2, 2).repeat_interleave(2, 3), seed=0)
    assert large.left(MILD) == pytest.approx(small.left(MILD), abs=0.02)


def test_too_few_images_reject_nothing(images: torch.Tensor) -> None:
    screen = Screen(images[:2], seed=0)
    assert screen.left(HARSH) is None
    assert not screen.rejects(HARSH)


@pytest.mark.parametrize("sampler", ["random", "belief"])
def test_no_proposal_that_leaves_too_little_is_tried(tmp_path: Path, images: torch.Tensor, sampler: str) -> None:
    screen = Screen(images, seed=0)
    study = open_study(tmp_path, screen=screen, sampler=sampler)
    tried = [Policy.from_dict(item.policy) for item in run(study, 14)]
    assert not any(screen.rejects(policy) for policy in tried[2:])
    assert study.num_trials == 14
    records, rejected = read_study(tmp_path / "study.db")
    assert study.num_rejected == rejected > 0
    assert len(records) == 14, "what was rejected is no trial"
    assert {record.state for record in records} == {"complete"}
    # Another process goes on as this one would have.
    again = open_study(tmp_path, screen=Screen(images, seed=0), sampler=sampler)
    assert again.propose(flops=1.0).policy == study.propose(flops=1.0).policy


def test_without_it_harsh_ones_are_tried_too(tmp_path: Path, images: torch.Tensor) -> None:
    screen = Screen(images, seed=0)
    tried = [Policy.from_dict(item.policy) for item in run(open_study(tmp_path, screen=None), 14)]
    assert any(screen.rejects(policy) for policy in tried[2:])


def test_controls_are_run_whatever_they_leave(tmp_path: Path, images: torch.Tensor) -> None:
    strict = Screen(images, seed=0, least=0.99)
    items = run(open_study(tmp_path, screen=strict), 2)
    assert [item.label for item in items] == ["image-only", "gaussian-noise"]
    assert strict.rejects(Policy.from_dict(items[1].policy))


def test_a_space_in_which_nothing_leaves_enough_is_searched_all_the_same(tmp_path: Path, images: torch.Tensor) -> None:
    study = open_study(tmp_path, screen=Screen(images, seed=0, least=1.1))
    assert len(run(study, 3)) == 3
    assert study.num_rejected == 20


def test_a_proposal_that_was_cut_off_before_it_was_judged_is_judged_when_it_is_reopened(
    tmp_path: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutOffError(Exception):
        pass

    def cut_off(_: object, __: Policy) -> bool:
        raise CutOffError

    screen = Screen(images, seed=0, least=1.1)
    study = open_study(tmp_path, screen=screen)
    run(study, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Screen, "rejects", cut_off)
        with pytest.raises(CutOffError):
            study.propose(flops=1.0)
    again = open_study(tmp_path, screen=screen)
    (key,) = again.interrupted()
    assert again.propose(flops=1.0, resume=key).key != key
