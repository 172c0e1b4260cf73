"""The conformance suite of generator families: what every model must hold, whatever it is made of."""

import inspect
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autopv.errors import ModelError
from autopv.models.base import (
    VideoGenerator,
    build_model,
    default_size_px,
    model_names,
    plan_defaults,
    preset_names,
)
from autopv.training.learner import Learner
from autopv.training.plan import TrainingPlan

BATCH = 4


class ModelSuite:
    """Subclass it with the family's name, and a preset that is quick on a CPU:

    class TestMyUNet(ModelSuite):
        model = "my-unet"
        preset = "tiny"

    Tests that can take over a second are marked `slow`: name that marker in your pytest settings.
    """

    model: ClassVar[str]
    preset: ClassVar[str] = "tiny"
    channels: ClassVar[int] = 1
    num_learning_steps: ClassVar[int] = 30
    """In which it must get half of the way to a constant image."""
    num_class_steps: ClassVar[int] = 60
    """In which a family that takes classes must tell dark images from bright ones by their labels."""

    def build(
        self, *, num_frames: int = 3, seed: int = 0, num_classes: int = 0, size_px: int | None = None
    ) -> VideoGenerator:
        """The family's model, at its preset's default size unless told otherwise."""
        return build_model(
            self.model,
            preset=self.preset,
            size_px=size_px or default_size_px(self.model, self.preset),
            channels=self.channels,
            num_frames=num_frames,
            num_classes=num_classes,
            seed=seed,
        )

    def build_with_classes(self, *, num_frames: int = 2, num_classes: int = 3) -> VideoGenerator:
        """The family's model of small images of classes; a family that takes none skips the test."""
        kind = type(self.build(num_frames=1))
        if not kind.takes_classes:
            pytest.skip(f"{self.model} takes no classes")
        size_px = min(kind.preset_sizes_px[self.preset])
        return self.build(num_frames=num_frames, num_classes=num_classes, size_px=size_px)

    def frames(self, model: VideoGenerator, *, batch: int = BATCH, seed: int = 0) -> Tensor:
        """Random videos frames_BTCHW in [0, 1] of the model's shape."""
        shape = (batch, model.num_frames, model.channels, model.size_px, model.size_px)
        return torch.rand(shape, generator=_generator(seed))

    def weights(self, model: VideoGenerator) -> list[float]:
        """A weight for every frame, the last one's 1."""
        return [0.1] * (model.num_frames - 1) + [1.0]

    def loss_of(
        self, model: VideoGenerator, frames_BTCHW: Tensor, *, seed: int = 1, labels: Tensor | None = None
    ) -> Tensor:
        """The total loss by a fixed draw."""
        generator = _generator(seed)
        loss = model.loss(frames_BTCHW, frame_weights_T=self.weights(model), labels=labels, generator=generator)
        return loss.total_loss.detach()

    def test_the_name_and_presets_are_registered(self) -> None:
        assert self.model in model_names()
        assert self.preset in preset_names(self.model)

    def test_equal_seeds_build_equal_weights_and_leave_the_global_generator_alone(self) -> None:
        before = torch.random.get_rng_state()
        one, two, other = self.build(seed=5), self.build(seed=5), self.build(seed=6)
        assert torch.equal(before, torch.random.get_rng_state())
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    @pytest.mark.parametrize("num_frames", [1, 2, 3])
    def test_loss_is_a_finite_scalar_with_finite_terms_and_gradients(self, num_frames: int) -> None:
        model = self.build(num_frames=num_frames)
        loss = model.loss(self.frames(model), frame_weights_T=self.weights(model), generator=_generator(1))
        assert loss.total_loss.shape == ()
        assert loss.terms
        assert all(torch.isfinite(value) and not value.requires_grad for value in loss.terms.values())
        torch.autograd.backward(loss.total_loss)
        for name, p in model.named_parameters():
            assert p.grad is not None, f"{name} has no part in the loss: several workers would wait for its gradient"
            assert bool(torch.isfinite(p.grad).all()), name

    def test_loss_draws_from_its_generator_alone(self) -> None:
        model = self.build()
        frames = self.frames(model)
        before = torch.random.get_rng_state()
        assert torch.equal(self.loss_of(model, frames), self.loss_of(model, frames))
        assert not torch.equal(self.loss_of(model, frames), self.loss_of(model, frames, seed=2))
        assert torch.equal(before, torch.random.get_rng_state())

    def test_loss_is_a_mean_over_images(self) -> None:
        model = self.build()
        frames, noise = self.frames(model), model.draw_noise(BATCH, generator=_generator(1))

        def loss_of(part: slice) -> Tensor:
            of_part = {name: value[part] for name, value in noise.items()}
            weights_T, kl_weight = torch.tensor(self.weights(model)), torch.ones(())
            return model.loss_terms(frames[part], frame_weights_T=weights_T, noise=of_part, kl_weight=kl_weight)[0]

        with torch.no_grad():
            parts = torch.stack([loss_of(slice(0, 1)), loss_of(slice(1, 2)), loss_of(slice(2, BATCH))])
            shares = torch.tensor([1, 1, BATCH - 2]) / BATCH
            assert torch.allclose(loss_of(slice(None)), (parts * shares).sum(), rtol=1e-4, atol=1e-5)

    def test_loss_leaves_the_frames_alone(self) -> None:
        model = self.build()
        frames = self.frames(model)
        kept = frames.clone()
        self.loss_of(model, frames)
        assert torch.equal(frames, kept)

    def test_frame_weights_change_the_loss(self) -> None:
        model = self.build()
        frames = self.frames(model)
        heavy = model.loss(frames, frame_weights_T=[1.0] * model.num_frames, generator=_generator(1))
        assert float(heavy.total_loss.detach()) != float(self.loss_of(model, frames))

    def test_samples_are_images_in_range_from_their_generator_alone(self) -> None:
        model = self.build()
        before = torch.random.get_rng_state()
        images = model.sample_last_frame(5, generator=_generator(3))
        assert images.shape == (5, model.channels, model.size_px, model.size_px)
        assert images.dtype == torch.float32
        assert not images.requires_grad
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert torch.equal(images, model.sample_last_frame(5, generator=_generator(3)))
        assert not torch.equal(images, model.sample_last_frame(5, generator=_generator(4)))
        assert torch.equal(before, torch.random.get_rng_state())

    @pytest.mark.parametrize("num_frames", [1, 3])
    def test_the_last_frames_of_sampled_videos_are_the_sampled_images(self, num_frames: int) -> None:
        model = self.build(num_frames=num_frames)
        ours, theirs = _generator(3), _generator(3)
        frames = model.sample_frames(5, generator=ours, temperature=0.8)
        assert frames.shape == (5, num_frames, model.channels, model.size_px, model.size_px)
        assert frames.dtype == torch.float32
        assert 0 <= float(frames.min()) <= float(frames.max()) <= 1
        assert torch.equal(frames[:, -1], model.sample_last_frame(5, generator=theirs, temperature=0.8))
        assert torch.equal(ours.get_state(), theirs.get_state())
        assert all(not torch.equal(frames[:, t], frames[:, -1]) for t in range(num_frames - 1))

    def test_temperature_changes_the_samples(self) -> None:
        model = self.build()
        cold = model.sample_last_frame(2, generator=_generator(3), temperature=0.5)
        assert not torch.equal(cold, model.sample_last_frame(2, generator=_generator(3)))

    def test_its_state_dict_holds_all_that_samples_depend_on(self) -> None:
        one, other = self.build(), self.build(seed=6)
        other.load_state_dict(one.state_dict())
        samples = [model.eval().sample_last_frame(2, generator=_generator(3)) for model in (one, other)]
        assert torch.equal(*samples)

    def test_its_settings_of_the_plan_are_ones_that_a_plan_has(self) -> None:
        plan = TrainingPlan.asked(model=self.model).to_dict()
        assert plan | dict(plan_defaults(self.model)) == plan

    @pytest.mark.slow
    @pytest.mark.parametrize("num_frames", [1, 3])
    def test_stated_flops_are_the_counted_ones(self, num_frames: int) -> None:
        model = self.build(num_frames=num_frames)
        frames = self.frames(model)
        with FlopCounterMode(display=False) as counter:
            self.loss_of(model, frames)
        assert model.flops_per_image(num_frames) == pytest.approx(counter.get_total_flops() / BATCH, rel=0.02)

    def test_stated_flops_of_other_lengths_are_those_of_such_models(self) -> None:
        model = self.build(num_frames=1)
        assert model.flops_per_image(3) == self.build(num_frames=3).flops_per_image(3)
        assert model.flops_per_image(3) > model.flops_per_image(1)

    def test_frames_of_another_shape_and_wrong_weights_are_refused(self) -> None:
        model = self.build()
        frames = self.frames(model)
        with pytest.raises(ModelError, match="shape"):
            model.loss(frames[:, 1:], frame_weights_T=self.weights(model), generator=_generator(0))
        with pytest.raises(ModelError, match="one weight per frame"):
            model.loss(frames, frame_weights_T=[1.0], generator=_generator(0))
        with pytest.raises(ModelError, match="last one 1"):
            model.loss(frames, frame_weights_T=[1.0] * (model.num_frames - 1) + [0.5], generator=_generator(0))

    def test_every_preset_states_a_default_size_it_can_build(self) -> None:
        for preset in preset_names(self.model):
            size_px = default_size_px(self.model, preset)
            with torch.device("meta"):
                model = build_model(self.model, preset=preset, size_px=size_px, channels=3, num_frames=2, seed=0)
            assert model.flops_per_image(2) > 0

    @pytest.mark.slow
    def test_learns_a_constant_image(self) -> None:
        model = self.build(num_frames=2)
        target = torch.full((8, 2, model.channels, model.size_px, model.size_px), 0.8)
        learner = Learner(model, plan=TrainingPlan(total_flops=1e9))
        start = (model.sample_last_frame(8, generator=_generator(1)) - 0.8).abs().mean()
        rate = model.plan_defaults.get("learning_rate", learner.plan.learning_rate)
        for step in range(self.num_learning_steps):
            learner.step(
                target, frame_weights_T=[0.1, 1.0], kl_weight=1.0, learning_rate=rate, generator=_generator(step)
            )
        end = (model.sample_last_frame(8, generator=_generator(1)) - 0.8).abs().mean()
        assert float(end) < 0.5 * float(start)

    def test_labels_are_refused_where_there_are_no_classes(self) -> None:
        model = self.build(num_frames=2)
        labels = torch.zeros(BATCH, dtype=torch.int64)
        with pytest.raises(ModelError, match="without classes"):
            self.loss_of(model, self.frames(model), labels=labels)
        with pytest.raises(ModelError, match="without classes"):
            model.sample_frames(BATCH, labels=labels, generator=_generator(0))

    def test_labels_that_do_not_fit_are_refused(self) -> None:
        model = self.build_with_classes()
        frames = self.frames(model)
        wrong = {
            "one per image": torch.zeros(BATCH - 1, dtype=torch.int64),
            "int64": torch.zeros(BATCH),
            "but got 3": torch.tensor([0, 1, 2, 3]),
            "but got -2": torch.tensor([0, -2, 2, -1]),
        }
        for says, labels in wrong.items():
            with pytest.raises(ModelError, match=says):
                self.loss_of(model, frames, labels=labels)
            with pytest.raises(ModelError, match=says):
                model.sample_last_frame(BATCH, labels=labels, generator=_generator(0))

    def test_classes_change_neither_the_other_weights_nor_what_is_known_of_unlabelled_images(self) -> None:
        model = self.build_with_classes()
        plain = self.build(num_frames=2, size_px=model.size_px)
        weights = model.state_dict()
        assert weights.keys() > plain.state_dict().keys()
        assert all(torch.equal(weights[name], value) for name, value in plain.state_dict().items())
        frames = self.frames(model)
        unlabelled = torch.full((BATCH,), -1)
        assert torch.equal(self.loss_of(model, frames, labels=unlabelled), self.loss_of(plain, frames))
        assert torch.equal(self.loss_of(model, frames), self.loss_of(plain, frames))
        images = model.sample_last_frame(BATCH, labels=unlabelled, generator=_generator(3))
        assert torch.equal(images, plain.sample_last_frame(BATCH, generator=_generator(3)))
        assert torch.equal(images, model.sample_frames(BATCH, labels=unlabelled, generator=_generator(3))[:, -1])

    @pytest.mark.slow
    @pytest.mark.parametrize("num_frames", [1, 3])
    def test_stated_flops_count_the_classes(self, num_frames: int) -> None:
        model = self.build_with_classes(num_frames=num_frames, num_classes=1000)
        labels = torch.zeros(BATCH, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            self.loss_of(model, self.frames(model), labels=labels)
        assert model.flops_per_image(num_frames) == pytest.approx(counter.get_total_flops() / BATCH, rel=0.02)
        assert self.build_with_classes(num_frames=2, num_classes=1000).flops_per_image(num_frames) == model.flops()

    @pytest.mark.slow
    def test_each_label_gives_its_own_images_and_none_gives_the_mixture(self) -> None:
        model = self.build_with_classes(num_frames=1, num_classes=2)
        labels = torch.arange(16) % 2
        # Not further apart: the label must still tell something when a little of the image is known.
        values = torch.where(labels == 0, 0.35, 0.65)[:, None, None, None, None]
        target = values.expand(-1, 1, model.channels, model.size_px, model.size_px).contiguous()
        learner = Learner(model, plan=TrainingPlan(total_flops=1e9))
        rate = model.plan_defaults.get("learning_rate", learner.plan.learning_rate)
        for step in range(self.num_class_steps):
            learner.step(
                target,
                labels=labels,
                frame_weights_T=[1.0],
                kl_weight=1.0,
                learning_rate=rate,
                generator=_generator(step),
            )
        assert not torch.equal(
            self.loss_of(model, target, labels=labels), self.loss_of(model, target, labels=1 - labels)
        )
        images = model.sample_last_frame(16, labels=labels, generator=_generator(1))
        assert torch.equal(images.mean((1, 2, 3)) > 0.5, labels == 1)
        model.class_counts = torch.tensor([12, 4, 0])
        before = torch.random.get_rng_state()
        mixture = model.sample_frames(16, generator=_generator(1))[:, -1]
        assert torch.equal(mixture, model.sample_last_frame(16, generator=_generator(1)))
        assert torch.equal(before, torch.random.get_rng_state())
        assert int((mixture.mean((1, 2, 3)) > 0.5).sum()) == 4

    def test_docstrings_are_its_own(self) -> None:
        family = type(self.build())
        assert inspect.cleandoc(family.__doc__ or "") != inspect.cleandoc(VideoGenerator.__doc__ or "")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
