import pickle

import pytest
import torch
from team_cases import STEPS, losses_of, run_part, uneven_trainer

from autopv.errors import InputError, StorageError, TrainingDiverged
from autopv.training.team import Team, check_equal_parts


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two processes found; they are started once, since that takes longer than all they do."""
    folder = tmp_path_factory.mktemp("team")
    torch.multiprocessing.spawn(run_part, args=(folder,), nprocs=2)
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(2)]


def test_alone_it_is_the_whole():
    team = Team()
    module = torch.nn.Linear(1, 1)
    assert team.wrap(module) is module
    assert team.rows(7) == slice(0, 7)
    assert team.is_first
    assert (team.any(True), team.any(False), team.told(lambda: 3), team.in_turn(lambda: 4)) == (True, False, 3, 4)


def test_its_parts_are_equal_and_cover_the_batch():
    assert [Team(rank=rank, size=3).rows(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(InputError, match=r"got 32 images for 3 workers: give --batch-size 30 or 33, or another"):
        Team(size=3).rows(32)
    with pytest.raises(InputError, match=r"give --batch-size 3, or another"):
        check_equal_parts(2, num_workers=3)
    with pytest.raises(InputError, match="0 <= rank < size"):
        Team(rank=2, size=2)


@pytest.mark.slow
def test_all_are_told_what_the_first_says_and_raise_what_it_raises(found):
    for rank, part in enumerate(found):
        said = part["said"]
        assert said["told"] == {"rank": 0}
        assert said["calls"] == (1 if rank == 0 else 0)
        assert said["any"] == [False, True, True]
        assert said["mean"] == 0.5
        assert said["in_turn"] == rank
        assert isinstance(said["failure"], StorageError)
        assert str(said["failure"]) == "the disk is full"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hvae", "in parts", "diffusion"])
def test_two_processes_train_like_one(found, name):
    alone = uneven_trainer(model="diffusion" if name == "diffusion" else "hvae")
    losses = losses_of(alone)
    weights = alone.learner.tensors()
    assert len(losses) == STEPS
    (first_losses, first), (second_losses, second) = (part[name] for part in found)
    assert first_losses == second_losses
    for one, two in zip(losses, first_losses, strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert weights.keys() == first.keys() == second.keys()
    for key, expected in weights.items():
        assert torch.equal(first[key], second[key]), f"{key}: all of a team hold the same, to the bit"
        if not key.startswith("exp_avg"):
            torch.testing.assert_close(first[key], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_a_training_begun_alone_is_gone_on_with_by_two(found):
    alone = uneven_trainer()
    losses = losses_of(alone)[STEPS // 2 :]
    for part in found:
        for one, two in zip(losses, part["gone on with"], strict=True):
            assert two == pytest.approx(one, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_a_part_that_does_not_fit_the_memory_is_told_with_what_helps(found):
    for part in found:
        assert isinstance(part["out of memory"], InputError)
        assert "2 of 4 images do not (2 GiB are not free): give a smaller --batch-size, or more" in str(
            part["out of memory"]
        )


@pytest.mark.slow
def test_what_is_not_finite_in_one_part_stops_all_at_the_same_step(found):
    for part in found:
        assert isinstance(part["diverged"], TrainingDiverged)
        assert "not at step 1" in str(part["diverged"])
