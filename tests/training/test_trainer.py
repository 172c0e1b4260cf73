import pytest
import torch
from training_cases import SIZE_PX, StopAfter, noise_policy, random_images, same_state, same_weights

from autopv.data.class_labels import ClassLabels
from autopv.errors import BudgetError, DataError, InputError, ModelError
from autopv.policy.policy import Layer, Policy


def test_equal_arguments_give_equal_trainings_and_leave_the_global_generator_alone(make_trainer):
    before = torch.random.get_rng_state()
    one, two = make_trainer(), make_trainer()
    for trainer in (one, two):
        trainer.train_until(0.5)
    assert same_state(one, two)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_global_generator_does_not_matter(make_trainer):
    one, two = make_trainer(), make_trainer()
    one.train_until(0.2)
    torch.rand(3)
    two.train_until(0.2)
    assert same_state(one, two)


@pytest.mark.parametrize("change", [{"seed": 1}, {"policy": Policy.image_only()}, {"images": random_images(seed=1)}])
def test_another_seed_policy_or_data_gives_another_training(make_trainer, change):
    one, two = make_trainer(), make_trainer(**change)
    for trainer in (one, two):
        trainer.train_until(0.1)
    weight = "levels.0.take.weight"
    assert not torch.equal(one.learner.tensors()[f"model/{weight}"], two.learner.tensors()[f"model/{weight}"])


def test_policies_that_render_alike_train_alike(make_trainer):
    nothing = Policy(num_frames=3, layers=(Layer(op="gaussian_noise", magnitude=0.0, frames=(1, 2)),))
    length = {"total_flops": make_trainer().plan.total_flops}
    one = make_trainer(policy=nothing, plan_changes=length)
    two = make_trainer(policy=Policy.image_only(), plan_changes=length)
    for trainer in (one, two):
        trainer.train_until(0.1)
    assert same_state(one, two)


def test_compute_is_counted_in_whole_steps(make_trainer):
    trainer = make_trainer(steps=20)
    assert trainer.total_steps == 20
    assert trainer.total_flops <= trainer.plan.total_flops
    trainer.train_until(0.5)
    assert (trainer.position, trainer.progress) == (10, 0.5)
    assert trainer.flops_spent == 10 * trainer.flops_per_step == trainer.flops_position


def test_a_longer_video_pays_for_its_frames_with_steps(make_trainer):
    flops = make_trainer(steps=1000, policy=Policy.image_only()).plan.total_flops
    longer = make_trainer(policy=noise_policy(num_frames=4), plan_changes={"total_flops": flops})
    assert longer.total_steps < 1000


def test_a_look_costs_its_decay_and_leaves_the_trunk_as_if_it_had_not_been(make_trainer):
    plain, looked = make_trainer(), make_trainer()
    plain.train_until(0.7)
    assert looked.annealed_look(0.5) is not None
    assert (looked.position, looked.trunk_position, looked.steps_done) == (10, 7, 10)
    looked.train_until(0.7)
    assert same_state(plain, looked)
    assert (plain.steps_done, looked.steps_done) == (14, 17)
    assert looked.flops_spent - looked.flops_position == 3 * looked.flops_per_step


def test_a_look_is_annealed(make_trainer):
    rates = []
    trainer = make_trainer(plan_changes={"warmup_steps": 0})
    step = trainer._step
    trainer._step = lambda rate: (rates.append(rate), step(rate))[1]
    trainer.annealed_look(0.5)
    whole = trainer.plan.learning_rate
    assert rates[:7] == [whole] * 7
    assert rates[7:] == pytest.approx([whole * left / 3 for left in (2.5, 1.5, 0.5)])


def test_the_look_at_the_end_is_the_final_model_and_costs_the_total(make_trainer):
    trainer = make_trainer()
    model = trainer.annealed_look(1.0)
    assert trainer.position == trainer.total_steps
    assert trainer.flops_spent == trainer.total_flops
    assert same_weights(model, trainer.annealed_look(1.0))
    assert trainer.flops_spent == trainer.total_flops


def test_a_finished_look_asked_again_costs_nothing(make_trainer):
    trainer = make_trainer()
    first = trainer.annealed_look(0.5)
    spent = trainer.flops_spent
    assert same_weights(first, trainer.annealed_look(0.5))
    assert trainer.flops_spent == spent


def test_the_looked_at_model_is_a_copy(make_trainer):
    trainer = make_trainer()
    model = trainer.annealed_look(0.3)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.train_until(0.5)
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_look_behind_the_trunk_is_refused(make_trainer):
    trainer = make_trainer()
    trainer.train_until(0.8)
    with pytest.raises(InputError, match=r"look at 0\.5 anneals from step 7, but the trunk already stands at step 16"):
        trainer.annealed_look(0.5)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_a_fraction_outside_the_training_is_refused(make_trainer, fraction):
    with pytest.raises(InputError, match="0 < fraction <= 1"):
        make_trainer().train_until(fraction)


@pytest.mark.parametrize("stop_after", [0, 3, 7, 8, 10])
def test_stopping_anywhere_and_going_on_changes_nothing(make_trainer, stop_after):
    straight, stopped = make_trainer(), make_trainer()
    model = straight.annealed_look(0.5)
    half = stopped.annealed_look(0.5, should_stop=StopAfter(stop_after))
    assert (half is None) == (stop_after < 10)
    assert stopped.steps_done == stop_after
    assert same_weights(model, stopped.annealed_look(0.5))
    assert straight.train_until(0.6)
    assert stopped.train_until(0.6)
    assert same_state(straight, stopped)


def test_train_until_says_whether_it_got_there(make_trainer):
    trainer = make_trainer()
    assert not trainer.train_until(0.5, should_stop=StopAfter(2))
    assert trainer.position == 2
    assert trainer.train_until(0.5)


def test_progress_is_told_at_the_end_of_each_part_at_least(make_trainer):
    records = []
    trainer = make_trainer()
    trainer.annealed_look(0.5, on_progress=records.append)
    assert [(r.position, r.look_fraction) for r in (records[0], records[-1])] == [(7, None), (10, 0.5)]
    assert records[-1].flops_spent == trainer.flops_spent
    assert records[-1].learning_rate < records[0].learning_rate
    assert "rate" in records[-1].terms


def test_frames_are_rendered_by_the_policy_and_weighted_by_progress(make_trainer, monkeypatch):
    trainer = make_trainer(steps=10, policy=noise_policy(num_frames=3, weight=0.8, until=0.5))
    seen = []
    take_step = trainer.learner.step

    def spy(frames_BTCHW, *, frame_weights_T, kl_weight, learning_rate, generator, labels):
        assert labels is None
        seen.append((frames_BTCHW, frame_weights_T, kl_weight))
        keywords = {"frame_weights_T": frame_weights_T, "kl_weight": kl_weight, "learning_rate": learning_rate}
        return take_step(frames_BTCHW, **keywords, generator=generator)

    monkeypatch.setattr(trainer.learner, "step", spy)
    trainer.train_until(1.0)
    assert [weight for _, _, weight in seen] == [0.05] + [1.0] * 9
    for step, (frames, weights, _) in enumerate(seen):
        assert frames.shape == (4, 3, 1, 8, 8)
        assert weights == trainer.policy.frame_weights(step / 10)
        assert not torch.equal(frames[:, 0], frames[:, 2])
    assert seen[0][1] == (0.8, 0.8, 1.0)
    assert seen[-1][1] == (0.0, 0.0, 1.0)


def test_every_image_comes_with_its_label(make_trainer, monkeypatch):
    labels_N = torch.arange(10) % 3 - 1
    images = (labels_N + 2)[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8) * 50
    trainer = make_trainer(steps=10, images=images, classes=ClassLabels(("crack", "good"), labels_N))
    seen = []
    take_step = trainer.learner.step

    def spy(frames_BTCHW, *, labels, **keywords):
        seen.extend(zip((frames_BTCHW[:, -1, 0, 0, 0] * 255 / 50).round().tolist(), labels.tolist(), strict=True))
        return take_step(frames_BTCHW, labels=labels, **keywords)

    monkeypatch.setattr(trainer.learner, "step", spy)
    trainer.train_until(1.0)
    assert set(seen) == {(1, -1), (2, 0), (3, 1)}


def test_as_many_labels_as_images_are_needed(make_trainer):
    with pytest.raises(DataError, match=r"one per image \(10\), but got 9"):
        make_trainer(classes=ClassLabels(("crack", "good"), torch.arange(9) % 2))


def test_the_last_frame_is_the_training_image(make_trainer, monkeypatch):
    images = random_images(4)
    trainer = make_trainer(images=images)
    seen = []
    render = Policy.render

    def spy(self, images_BCHW, *, generator, **_):
        seen.append(render(self, images_BCHW, generator=generator))
        return seen[-1]

    monkeypatch.setattr(Policy, "render", spy)
    trainer.train_until(0.05)
    shown = sorted(frame.sum().item() for frame in seen[0][:, -1])
    assert shown == pytest.approx(sorted((image / 255).sum().item() for image in images), rel=1e-5)


def test_flips_change_the_training_only_when_asked_for(make_trainer):
    one, two = make_trainer(), make_trainer(plan_changes={"horizontal_flips": True})
    for trainer in (one, two):
        trainer.train_until(0.1)
    assert not same_state(one, two)


def test_images_of_another_kind_are_refused(make_trainer):
    with pytest.raises(DataError, match="uint8"):
        make_trainer(images=random_images().float())
    with pytest.raises(DataError, match=r"\(N, 1, 8, 8\)"):
        make_trainer(images=torch.zeros(3, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(DataError, match="at least one image"):
        make_trainer(images=torch.zeros(0, 1, 8, 8, dtype=torch.uint8))


def test_a_budget_below_one_step_is_refused(make_trainer):
    with pytest.raises(BudgetError, match="one step at least"):
        make_trainer(plan_changes={"total_flops": 1e3})


def test_more_frames_than_levels_are_refused(make_trainer):
    with pytest.raises(ModelError, match="num_frames <="):
        make_trainer(policy=noise_policy(num_frames=30), plan_changes={"total_flops": 1e9})


def defect_policy(op):
    return Policy(num_frames=2, layers=(Layer(op=op, magnitude=0.5, frames=(1, 1)),))


def test_masks_reach_the_policy_that_needs_them(make_trainer):
    masks = torch.zeros(10, SIZE_PX, SIZE_PX, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    fading = make_trainer(policy=defect_policy("defect_fade"), masks=masks)
    intact = make_trainer(policy=defect_policy("defect_fade"), masks=torch.zeros_like(masks))
    assert fading.data_digest != intact.data_digest
    for trainer in (fading, intact):
        trainer.train_until(0.1)
    assert not same_state(fading, intact)
    with pytest.raises(DataError, match=r"needs defect masks .* MVTec"):
        make_trainer(policy=defect_policy("defect_fade"))


def test_masks_do_not_matter_to_a_policy_that_needs_none(make_trainer):
    masks = torch.ones(10, SIZE_PX, SIZE_PX, dtype=torch.bool)
    assert make_trainer(masks=masks).data_digest == make_trainer().data_digest


def test_masks_are_flipped_with_their_images(make_trainer):
    images = random_images()
    masks = images[:, 0] > 127
    trainer = make_trainer(
        policy=defect_policy("defect_fade"), images=images, masks=masks, plan_changes={"horizontal_flips": True}
    )
    seen = []
    render = Policy.render
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Policy,
            "render",
            lambda self, images, **rest: (seen.append((images, rest)), render(self, images, **rest))[1],
        )
        trainer.train_until(0.2)
    for images_BCHW, rest in seen:
        assert torch.equal(rest["masks_BHW"], images_BCHW[:, 0] > 127.5 / 255)


def test_donors_are_training_images(make_trainer):
    trainer = make_trainer(policy=defect_policy("donor_paste"))
    trainer.train_until(0.1)
    assert torch.equal(trainer._donors_NCHW, random_images().float() / 255)
    assert make_trainer()._donors_NCHW is None
