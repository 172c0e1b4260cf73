import pytest
import torch

from autopv.errors import InputError
from autopv.training import fastest
from autopv.training.execution import Execution
from autopv.training.fastest import default_execution, fastest_execution


def builder(make_trainer, *, steps, built, compile_fails=False):
    def build(execution):
        built.append(execution)
        trainer = make_trainer(steps=steps)
        trainer.learner.execution = execution
        if execution.compiled and compile_fails:
            trainer.learner._loss_terms = fail
        return trainer

    return build


def fail(*_, **__):
    raise RuntimeError("no compiler\nsecond line")


def test_a_training_of_few_steps_is_not_even_timed(make_trainer):
    assert fastest_execution(builder(make_trainer, steps=20, built=[]), device="cpu").step_s == {}


def test_a_brief_training_is_carried_out_plainly(make_trainer):
    built = []
    choice = fastest_execution(builder(make_trainer, steps=200, built=built), device="cpu")
    assert choice.execution == Execution()
    assert built == [Execution()]
    assert choice.step_s["float32"] > 0
    assert "float32" in choice.describe()


def test_what_the_user_chose_is_not_tried(make_trainer):
    built = []
    build = builder(make_trainer, steps=20, built=built)
    choice = fastest_execution(build, device="cpu", precision="bfloat16", compiled=True)
    assert choice.execution == Execution(precision="bfloat16", compiled=True)
    assert built == []


def test_a_long_training_takes_the_faster_way(make_trainer, monkeypatch):
    seconds = {False: 1.0, True: 0.5}
    monkeypatch.setattr(fastest, "_step_s", lambda trainer: seconds[trainer.learner.execution.compiled])
    build = builder(make_trainer, steps=200, built=[])
    assert fastest_execution(build, device="cpu").execution == Execution(compiled=True)
    seconds[True] = 0.98
    assert fastest_execution(build, device="cpu").execution == Execution()


def test_a_machine_that_cannot_compile_trains_without_and_says_so(make_trainer, monkeypatch):
    monkeypatch.setattr(fastest, "WORTH_TRYING_S", 0.0)
    choice = fastest_execution(builder(make_trainer, steps=200, built=[], compile_fails=True), device="cpu")
    assert choice.execution == Execution()
    assert "float32 compiled does not work here (RuntimeError: no compiler)" in choice.describe()


def test_the_default_on_a_cpu_is_float32():
    assert default_execution("cpu") == Execution()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_default_on_a_gpu_is_bfloat16_where_it_has_it():
    assert default_execution("cuda").precision == ("bfloat16" if torch.cuda.is_bf16_supported() else "float32")


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown precision 'bfloat'.*Did you mean 'bfloat16'"):
        Execution(precision="bfloat")
    with pytest.raises(InputError, match="num_parts >= 1"):
        Execution(num_parts=0)


@pytest.mark.slow
def test_a_compiled_training_is_the_same_up_to_rounding(make_trainer):
    from autopv.training.learner import Learner

    def losses(execution):
        trainer = make_trainer(steps=20)
        trainer.learner = Learner(trainer.learner.model, plan=trainer.plan, execution=execution)
        found = []
        step = trainer.learner.step
        trainer.learner.step = lambda *a, **k: found.append(step(*a, **k)) or found[-1]
        trainer.train_until(0.25)
        return [float(loss.total_loss) for loss in found]

    assert losses(Execution(compiled=True)) == pytest.approx(losses(Execution()), rel=1e-3)
