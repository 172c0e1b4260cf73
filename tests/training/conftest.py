import signal

import pytest
from full_cases import Heard, request, write_images
from training_cases import BATCH, SIZE_PX, flops_of, noise_policy, random_images

from autopv.training.full import train_fully
from autopv.training.plan import TrainingPlan
from autopv.training.trainer import Trainer


@pytest.fixture
def make_trainer():
    """A trainer of the smallest model for so many steps; every part can be replaced."""

    def make(*, steps=20, policy=None, images=None, seed=0, masks=None, plan_changes=None, name="hvae", classes=None):
        policy = noise_policy() if policy is None else policy
        total_flops = flops_of(steps=steps, num_frames=policy.num_frames, name=name)
        length = {"total_flops": total_flops, "batch_size": BATCH}
        plan = TrainingPlan(**{**length, **(plan_changes or {})})
        return Trainer(
            name,
            preset="tiny",
            size_px=SIZE_PX,
            channels=1,
            policy=policy,
            images_NCHW=random_images() if images is None else images,
            masks_NHW=masks,
            classes=classes,
            plan=plan,
            seed=seed,
        )

    return make


@pytest.fixture
def heard_interrupts():
    """SIGINT is heard, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A file of 110 small images."""
    return write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="session")
def undisturbed(images, tmp_path_factory):
    """The folder, the result and the listener of a full training that nothing has interrupted."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    listener = Heard()
    result = train_fully(request(images, out, keep_every=4), listener=listener)
    return out, result, listener


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function when so many steps of this launch are done, in the midst of the last one's bookkeeping."""

    def call(number, function):
        real, done = Trainer._step, []

        def step(self, learning_rate):
            loss = real(self, learning_rate)
            done.append(None)
            if len(done) == number:
                function(self)
            return loss

        monkeypatch.setattr(Trainer, "_step", step)

    return call
