import pytest

from autopv.errors import InputError, ModelError
from autopv.training.plan import TrainingPlan


def plan(**changes):
    return TrainingPlan(
        **{"total_flops": 1e12, "learning_rate": 0.5, "warmup_steps": 10, "decay_fraction": 0.25, **changes}
    )


def test_the_trunk_warms_up_and_stays():
    rates = [plan().learning_rate_at(step, total_steps=100) for step in (0, 5, 10, 50, 100)]
    assert rates == [0.0, 0.25, 0.5, 0.5, 0.5]


def test_the_beginning_of_a_long_training_is_that_of_a_brief_one():
    steps = range(100)
    brief, long = ([plan().learning_rate_at(step, total_steps=total) for step in steps] for total in (100, 10000))
    assert brief == long
    gentle = plan(loss_warmup_steps=7)
    brief, long = ([gentle.kl_weight_at(step, total_steps=total) for step in steps] for total in (100, 10000))
    assert brief == long


def test_of_a_very_brief_training_a_tenth_is_warm_up():
    assert plan().learning_rate_at(1, total_steps=20) == 0.25
    assert plan().learning_rate_at(2, total_steps=20) == 0.5
    assert [plan().kl_weight_at(step, total_steps=20) for step in (0, 1, 2, 3)] == [0.05, 0.525, 1.0, 1.0]


def test_the_kl_terms_warm_up_to_their_weight_and_keep_it():
    weights = [plan(kl_weight=2.0, loss_warmup_steps=8).kl_weight_at(s, total_steps=100) for s in (0, 4, 8, 99)]
    assert weights == [0.1, 1.05, 2.0, 2.0]


@pytest.mark.parametrize("end", [80, 160, 800])
def test_a_decay_starts_at_the_trunk_rate_and_ends_at_zero(end):
    rates = [
        plan(warmup_steps=0).learning_rate_at(f * end, total_steps=800, decay_until=end)
        for f in (0.5, 0.75, 0.875, 1.0)
    ]
    assert rates == [0.5, 0.5, 0.25, 0.0]


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert plan(warmup_steps=0).learning_rate_at(0, total_steps=100) == 0.5


def test_a_plan_survives_its_json_form():
    assert TrainingPlan.from_dict(plan(horizontal_flips=True).to_dict()) == plan(horizontal_flips=True)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown key 'learning_rat'.*Did you mean 'learning_rate'"):
        TrainingPlan.from_dict({"total_flops": 1e9, "learning_rat": 1e-3})


def test_a_plan_without_a_length_is_refused():
    with pytest.raises(InputError, match="total_flops"):
        TrainingPlan.from_dict({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_flops", 0.0),
        ("total_flops", float("inf")),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("learning_rate", float("nan")),
        ("warmup_steps", -1),
        ("warmup_steps", 2.5),
        ("loss_warmup_steps", -1),
        ("kl_weight", -0.5),
        ("decay_fraction", 0.0),
        ("decay_fraction", 1.0),
        ("weight_decay", -1.0),
        ("ema", 1.0),
        ("grad_clip", 0.5),
        ("grad_skip", 0.5),
        ("learning_rate", "0.1"),
        ("horizontal_flips", 1),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        plan(**{name: value})


def test_a_family_has_its_own_defaults_and_the_user_the_last_word():
    usual = TrainingPlan(total_flops=1e15)
    assert TrainingPlan.asked(model="hvae") == usual
    assert TrainingPlan.asked(model="diffusion").learning_rate < usual.learning_rate
    asked = TrainingPlan.asked(model="diffusion", learning_rate=0.1, batch_size=7, kl_weight=2.0, flips=True)
    assert (asked.learning_rate, asked.batch_size, asked.kl_weight, asked.horizontal_flips) == (0.1, 7, 2.0, True)
    with pytest.raises(InputError, match="learning_rate"):
        TrainingPlan.asked(model="hvae", learning_rate=-1.0)
    with pytest.raises(ModelError, match="Did you mean"):
        TrainingPlan.asked(model="hvea")
