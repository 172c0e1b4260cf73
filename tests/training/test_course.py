import json

import pytest

from autopv.training.course import Course, LookRecord, end_step, look_fractions, start_step


def course(*distances, patience=2, num_looks=6):
    fractions = look_fractions(num_looks, total_steps=1000)
    looks = tuple(
        LookRecord(fraction=fraction, step=end_step(fraction, total_steps=1000), steps_done=0, distance=distance)
        for fraction, distance in zip(fractions, distances, strict=False)
    )
    return Course(
        data="parts",
        group_by=None,
        trained_on="train",
        num_looks=num_looks,
        fractions=fractions,
        patience=patience,
        metric={"name": "fd_lite0", "num_images": 20},
        floor=1.5,
        log_folder="logs",
        looks=looks,
    )


def test_looks_that_fall_on_one_step_are_one():
    for total in (1, 2, 7, 10, 1000):
        fractions = look_fractions(12, total_steps=total)
        steps = [end_step(fraction, total_steps=total) for fraction in fractions]
        assert steps == sorted(set(steps))
        assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("distances", "patience", "gives_up"),
    [
        ((), 1, False),
        ((5.0,), 1, False),
        ((5.0, 4.0), 1, False),
        ((5.0, 6.0), 1, True),
        ((5.0, 5.0), 1, True),  # no better is not better
        ((5.0, 6.0), 2, False),
        ((5.0, 6.0, 5.5), 2, True),
        ((5.0, 6.0, 4.0, 4.5), 2, False),
        ((5.0, 6.0, 7.0, 8.0), 0, False),
        ((None,), 1, False),
    ],
)
def test_it_gives_up_when_so_many_looks_bring_nothing_better(distances, patience, gives_up):
    one = course(*distances, patience=patience)
    assert one.gives_up == gives_up
    assert (one.fractions_ahead == ()) == gives_up


def test_the_best_look_is_the_nearest_and_the_earliest_of_equals():
    assert course().best is None
    assert course(3.0, 2.0, 2.0, 4.0).best.step == 62
    assert course(None, 2.0).best.distance == 2.0


def test_the_next_looks_are_those_not_yet_taken():
    assert course(3.0, 2.0, num_looks=3).fractions_ahead == (1.0,)
    assert course(3.0, 2.0, 1.0, num_looks=3).fractions_ahead == ()


def test_a_course_survives_its_json_form():
    one = course(3.0, None)
    assert Course.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_decay_begins_where_the_trainer_begins_it(make_trainer):
    trainer = make_trainer(steps=20)
    trainer.annealed_look(0.5)
    assert trainer.position == end_step(0.5, total_steps=20)
    assert trainer.trunk_position == start_step(0.5, total_steps=20, decay_fraction=trainer.plan.decay_fraction)
