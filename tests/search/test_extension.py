"""What is added to a run is written down whole, opens the right phase again, and keeps budget for the proof."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autopv.errors import BudgetError, ModelError, RunFolderError
from autopv.policy import Policy
from autopv.search.budget import Budget
from autopv.search.extension import MOST_BLOCKS, Extension, current_budget, extend, num_blocks, num_reserved
from autopv.search.job import resume_job
from autopv.search.ledger import Ledger, VerificationResult
from autopv.search.run_folder import RunFolder, RunSettings
from autopv.search.spending import SAFETY, Speed
from autopv.search.study import SearchStudy
from autopv.spaces import Space
from autopv.verify.blocks import Arm, fresh_seeds
from autopv.verify.controls import default_controls

ITEM_S = 10.0
SPEED = Speed(s_per_flop=ITEM_S, look_s=0.0, start_s=0.0)
CONTROLS = default_controls()
ARMS = [Arm(name=c.name, kind="control", policy=c.policy) for c in CONTROLS] + [
    Arm(name="search-0007", kind="searched", policy=Policy.image_only())
]

Extend = Callable[..., None]


def settings(budget: str = "1cpu-h", *, num_seeds: int = 3) -> RunSettings:
    return RunSettings(
        data="elpv",
        size_px=16,
        channels=1,
        group_by=None,
        data_digest="",
        splits_digest="",
        num_images=100,
        model="hvae",
        classes=False,
        preset="tiny",
        metric="fd_lite0",
        metric_num_images=100,
        space="stage2_expressive",
        space_digest="",
        sampler="tpe",
        stopping="halving",
        repeat_share=0.25,
        screen=0.8,
        given={},
        warm_start=(),
        budget=budget,
        seed=0,
        num_workers=1,
        trials_per_gpu=1,
        address=None,
        num_seeds=num_seeds,
        trial_steps=400,
        train_steps=None,
        trial_flops=1.0,
        rungs=(0.5, 1.0),
        training={},
        num_reserved=24,
        versions={},
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
def add(tmp_path: Path, ledger: Ledger) -> Extend:
    """Extends a run with these settings."""

    def extended(run: RunSettings, *, budget: str | None = None, more_seeds: int | None = None) -> None:
        study = SearchStudy(
            tmp_path / "study.db", space=Space.load(run.space), controls=CONTROLS, seed=0, rungs=run.rungs
        )
        extension = Extension(budget=budget, more_seeds=more_seeds)
        extend(extension, ledger=ledger, settings=run, study=study, speed=SPEED, num_controls=len(CONTROLS))

    return extended


def verify(ledger: Ledger, *, num_blocks: int) -> None:
    ledger.set_states({"arms": [arm.to_dict() for arm in ARMS], "phase": "done"})
    for seed in fresh_seeds(0, num_seeds=num_blocks):
        for arm in ARMS:
            ledger.record_verification(
                VerificationResult(arm=arm.name, seed=seed, distance=1.0, failure=None, checkpoint=None)
            )


def test_without_an_extension_the_settings_hold(ledger: Ledger) -> None:
    assert current_budget(ledger, settings()) == Budget.parse("1cpu-h")
    assert num_reserved(ledger, settings()) == 24
    assert num_blocks(ledger, settings()) == MOST_BLOCKS
    assert num_blocks(ledger, settings("8trials")) == 3


def test_more_budget_opens_the_search_again_and_adds_up(ledger: Ledger, add: Extend) -> None:
    verify(ledger, num_blocks=3)
    add(settings(), budget="+1cpu-h")
    add(settings(), budget="+30cpu-min")
    assert current_budget(ledger, settings()) == Budget.parse("150cpu-min")
    assert ledger.get_state("phase") == "search"


def test_the_new_arms_of_every_seed_are_kept_budget_for(ledger: Ledger, add: Extend) -> None:
    verify(ledger, num_blocks=4)
    add(settings(), budget="+1cpu-h")
    assert num_reserved(ledger, settings()) == 4 * 2, "two new arms on each of the four seeds"


def test_no_more_than_half_of_what_is_left_is_kept(ledger: Ledger, add: Extend) -> None:
    one_seed_s = (len(CONTROLS) + 2) * ITEM_S * SAFETY
    add(settings(f"{one_seed_s:.3f}cpu-s"), budget=f"+{one_seed_s * 1.1:.3f}cpu-s")
    assert num_reserved(ledger, settings()) == len(CONTROLS) + 2


def test_more_seeds_only_verify(ledger: Ledger, add: Extend) -> None:
    verify(ledger, num_blocks=3)
    add(settings("8trials"), more_seeds=2)
    assert ledger.get_state("phase") == "verify"
    assert num_blocks(ledger, settings("8trials")) == 5
    add(settings("8trials"), budget="+4trials")
    assert num_blocks(ledger, settings("8trials")) == 5, "the seeds that were verified stay"


def test_more_seeds_before_there_is_anything_to_verify_are_refused(ledger: Ledger, add: Extend) -> None:
    with pytest.raises(RunFolderError, match="still searching"):
        add(settings(), more_seeds=2)
    assert ledger.get_state("phase") is None


def test_seeds_that_the_budget_does_not_pay_for_are_refused_with_what_is_missing(ledger: Ledger, add: Extend) -> None:
    verify(ledger, num_blocks=3)
    needed_s = 2 * len(ARMS) * ITEM_S * SAFETY
    with pytest.raises(BudgetError, match=r"--more-seeds 2: 10 trainings \(5 arms\).*add --budget \+1cpu-min"):
        add(settings("60cpu-s"), more_seeds=2)
    assert ledger.get_state("phase") == "done", "nothing is changed by what is refused"
    add(settings("60cpu-s"), more_seeds=2, budget=f"+{needed_s:.0f}cpu-s")
    assert ledger.get_state("phase") == "verify"


def test_a_budget_that_cannot_be_added_changes_nothing(ledger: Ledger, add: Extend) -> None:
    verify(ledger, num_blocks=3)
    with pytest.raises(BudgetError):
        add(settings(), budget="+1gpu-h")
    assert ledger.get_state("phase") == "done"
    assert current_budget(ledger, settings()) == Budget.parse("1cpu-h")


def test_a_run_whose_model_is_not_installed_here_says_what_is_missing(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    versions = {"model package": "their-models 1.2"}
    folder.write_settings(replace(settings(), model="theirs", versions=versions))
    with pytest.raises(ModelError, match=r"run needs the model family 'theirs'.* the package their-models 1\.2"):
        resume_job(folder.path, extension=Extension(budget="+1cpu-h"))
