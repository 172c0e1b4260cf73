"""What a search is for, and what it starts from, are read as they are written."""

from pathlib import Path

import pytest

from autopv.errors import BudgetError, InputError, PolicyError, RunFolderError
from autopv.policy import Policy
from autopv.search.target import chosen_policies, given_policies, train_steps
from autopv.spaces import Space

SPACE = Space.load("stage2_expressive")


@pytest.mark.parametrize(
    ("text", "steps"),
    [("trial", None), ("5400", 5400), ("5400steps", 5400), ("20gpu-h", 144_000), ("90gpu-s", 180)],
)
def test_a_training_is_stated_in_steps_or_device_time(text: str, steps: int | None) -> None:
    assert train_steps(text, device="gpu", step_s=0.5) == steps


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("20cpu-h", "the budget is in gpu time"),
        ("long", "trial"),
        ("0", "at least 1 step"),
        ("20trials", "one training"),
        ("2gpu-h,20trials", "one training"),
        ("-5", "5400"),
    ],
)
def test_anything_else_is_refused_with_the_rule(text: str, told: str) -> None:
    with pytest.raises(BudgetError, match=told):
        train_steps(text, device="gpu", step_s=0.5)


def write(policy: Policy, path: Path) -> str:
    policy.save(path)
    return str(path)


def test_policies_come_from_files_in_the_order_given_each_once(tmp_path: Path) -> None:
    first, second = SPACE.random_policy(1), SPACE.random_policy(2)
    sources = [write(first, tmp_path / "a.json"), write(second, tmp_path / "b.json"), write(first, tmp_path / "c.json")]
    assert given_policies(sources) == [(sources[0], first), (sources[1], second)]


def test_what_holds_no_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*there is no such"):
        given_policies([str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match=r"best_found\.json"):
        given_policies([write(Policy.image_only(), tmp_path / "image.json")])
    with pytest.raises(RunFolderError, match="not a run folder"):
        given_policies([str(tmp_path)])
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(PolicyError, match=r"bad\.json"):
        given_policies([str(tmp_path / "bad.json")])


def chosen(policies: list[Policy], *, num_trials: int = 100, max_frames: int | None = None) -> tuple[list[Policy], str]:
    given = chosen_policies(
        [("file.json", policy) for policy in policies],
        space=SPACE,
        has_masks=False,
        max_frames=max_frames,
        num_trials=num_trials,
        controls=[SPACE.random_policy(0)],
    )
    return list(given.policies.values()), "; ".join(given.left_out)


def test_at_most_a_tenth_of_the_trials_is_given_away_but_one_is_always_tried() -> None:
    many = [SPACE.random_policy(seed) for seed in range(1, 30)]
    assert chosen(many)[0] == many[:10]
    assert "19 more" in chosen(many)[1]
    assert chosen(many, num_trials=5)[0] == many[:1]


def test_what_cannot_be_served_or_runs_anyway_is_left_out_with_a_reason() -> None:
    defect = Policy.parse("T=3 order=1 fresh weight=0.1: defect_fade healed=0.5 linear 1-2")
    long = Policy.parse("T=8 order=1 fresh weight=0.1: erase area=0.3 linear 1-7")
    outside = Policy.parse("T=3 order=1 fresh weight=5: erase area=0.3 linear 1-2")
    policies, left_out = chosen([SPACE.random_policy(0), defect, long, outside], max_frames=4)
    assert policies == [outside]
    assert "needs defect masks" in left_out
    assert "4 frames" in left_out
    assert "outside the search space" in left_out
