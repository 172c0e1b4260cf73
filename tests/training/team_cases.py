"""What two processes of a team do in the tests; each writes down what it found."""

import pickle

import torch
from torch import distributed
from training_cases import BATCH, SIZE_PX, flops_of, random_images

from autopv.data.class_labels import ClassLabels
from autopv.errors import AutopvError, StorageError
from autopv.policy.policy import Layer, Policy
from autopv.training.execution import Execution
from autopv.training.plan import TrainingPlan
from autopv.training.team import Team
from autopv.training.trainer import Trainer

STEPS = 6
# Whatever treats the images of one batch differently: coins, other images, noise.
UNEVEN = Policy(
    num_frames=3,
    layers=(
        Layer(op="donor_paste", magnitude=0.4, frames=(1, 2), probability=0.5),
        Layer(op="gaussian_noise", magnitude=0.2, frames=(1, 1)),
    ),
)


def uneven_trainer(*, team=None, model="hvae", num_parts=1):
    """A training of six steps of mirrored images; with hvae of two classes, and some images of none."""
    length = flops_of(steps=STEPS + 1, num_frames=3) if model == "hvae" else 1e12
    labels_N = torch.arange(10) % 3 - 1
    return Trainer(
        model,
        preset="tiny",
        size_px=SIZE_PX if model == "hvae" else 16,
        channels=1,
        policy=UNEVEN,
        images_NCHW=random_images() if model == "hvae" else random_images().repeat(1, 1, 2, 2),
        classes=ClassLabels(("good", "crack"), labels_N) if model == "hvae" else None,
        plan=TrainingPlan(total_flops=length, batch_size=BATCH, horizontal_flips=True, learning_rate=1e-3),
        seed=0,
        execution=Execution(num_parts=num_parts),
        team=team,
    )


def losses_of(trainer, *, steps=STEPS):
    """The total loss and the terms of its next steps."""
    found = []
    step = trainer._step
    trainer._step = lambda rate: found.append(step(rate)) or found[-1]
    trainer.train_until((trainer.position + steps) / trainer.total_steps)
    del trainer._step
    return [{"total": float(loss.total_loss), **{n: float(v) for n, v in loss.terms.items()}} for loss in found]


def run_part(rank, folder):
    """The whole life of one of two processes: what it found is in `folder`, in a file of its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    team = Team.joined()
    found = {name: action(team) for name, action in ACTIONS.items()}
    distributed.destroy_process_group()
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(found))


def _trained(model, num_parts):
    def train(team):
        trainer = uneven_trainer(team=team, model=model, num_parts=num_parts)
        losses = losses_of(trainer)
        return losses, trainer.learner.tensors()

    return train


def _gone_on_with(team):
    trainer = uneven_trainer(team=team)
    alone = uneven_trainer()
    alone.train_until(0.5)
    trainer.learner.restore(alone.learner.tensors())
    return losses_of(trainer, steps=STEPS // 2)


def _said(team):
    calls = []

    def fail():
        raise StorageError("the disk is full")

    try:
        team.told(fail)
        failure = None
    except AutopvError as error:
        failure = error
    return {
        "told": team.told(lambda: {"rank": calls.append(None) or team.rank}),
        "calls": len(calls),
        "any": [team.any(flag) for flag in (False, team.rank == 0, team.rank == 1)],
        "mean": float(team.mean(torch.tensor(float(team.rank)))),
        "in_turn": team.in_turn(lambda: team.rank),
        "failure": failure,
    }


def _out_of_memory(team):
    trainer = uneven_trainer(team=team)

    def full(*_, **__):
        raise torch.OutOfMemoryError("2 GiB are not free")

    trainer.learner._loss_terms = full
    try:
        trainer.train_until(1 / STEPS)
    except AutopvError as error:
        return error
    return None


def _diverged(team):
    trainer = uneven_trainer(team=team)
    if team.rank == 1:
        trainer._images_NCHW = trainer._images_NCHW.float() * torch.nan
    try:
        trainer.train_until(1 / STEPS)
    except AutopvError as error:
        return error
    return None


ACTIONS = {
    "said": _said,
    "hvae": _trained("hvae", 1),
    "in parts": _trained("hvae", 2),
    "diffusion": _trained("diffusion", 1),
    "gone on with": _gone_on_with,
    "out of memory": _out_of_memory,
    "diverged": _diverged,
}
