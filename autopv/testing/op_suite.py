"""Every promise of a corruption, as tests. A new op has them all with

class TestMyOp(OpSuite):
    op = "my_op"
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autopv.policy import Layer, Policy
from autopv.policy.ops import Op, get_op, op_names
from autopv.policy.ops.base import GROUPS, NEEDS, Draw
from autopv.policy.render import Part

SHAPES_BCHW = [(1, 1, 8, 8), (3, 3, 8, 8), (2, 1, 33, 33), (1, 3, 64, 64), (2, 4, 33, 64), (3, 2, 64, 8)]
ORDERS = [(2, 1), (3, 1), (6, 1), (6, 2), (6, 4), (6, 5)]
"""(num_frames, markov_order): chains, interleaved chains, stars."""


class OpSuite:
    """The tests; `op` is the short name under which the op is registered."""

    op: ClassVar[str]
    device: ClassVar[str] = "cpu"
    least_change: ClassVar[float] = 0.05
    """What the largest magnitude changes pixels by on average, at least; less for ops that touch few pixels."""

    @property
    def definition(self) -> Op:
        """The op under test."""
        return get_op(self.op)

    def policy(
        self,
        *,
        magnitude: float | None = None,
        num_frames: int = 4,
        markov_order: int = 1,
        randomness: str = "fresh",
        probability: float = 1.0,
    ) -> Policy:
        """A policy of one layer of the op, in the middle of its range where no magnitude is given."""
        if magnitude is None:
            magnitude = math.sqrt(self.definition.low * self.definition.high)
        layer = Layer(op=self.op, magnitude=magnitude, frames=(1, num_frames - 1), probability=probability)
        return Policy(num_frames=num_frames, markov_order=markov_order, randomness=randomness, layers=(layer,))

    def policies(self) -> Iterator[Policy]:
        """Policies over both ends and the middle of the range, every kind of order, and both kinds of randomness."""
        for magnitude in (self.definition.low, None, self.definition.high):
            for num_frames, order in ORDERS:
                for randomness in ("fresh", "shared") if order == num_frames - 1 else ("fresh",):
                    yield self.policy(
                        magnitude=magnitude, num_frames=num_frames, markov_order=order, randomness=randomness
                    )

    def images(self, shape_BCHW: tuple[int, int, int, int], *, seed: int = 0) -> Tensor:
        """Images with structure at every scale, from 0 to 1, on the suite's device."""
        return structured_images(shape_BCHW, seed=seed).to(self.device)

    def beside(self, images_BCHW: Tensor) -> dict[str, Any]:
        """Defect masks and donor images for these images, under the names that `render` takes them by."""
        batch, channels, height, width = images_BCHW.shape
        return {
            "masks_BHW": defect_masks((batch, height, width)).to(self.device),
            "donors": self.images((5, channels, height, width), seed=77).to(images_BCHW.dtype),
        }

    def render(self, policy: Policy, images_BCHW: Tensor, *, seed: int = 0) -> Tensor:
        """Videos from the generator of that seed."""
        return policy.render(images_BCHW, generator=torch.Generator().manual_seed(seed), **self.beside(images_BCHW))

    def draw(self, images_BCHW: Tensor, *, seed: int = 0) -> Draw:
        """What one step of the op draws for these images."""
        batch, channels, height, width = images_BCHW.shape
        generator = torch.Generator().manual_seed(seed)
        return self.definition.draw(
            (batch, channels, height, width), generator=generator, device=torch.device(self.device)
        )

    def corrupt(
        self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float, masks_BHW: Tensor | None = None
    ) -> Tensor:
        """One step of the op by this draw, everything prepared that it needs."""
        beside = self.beside(images_BCHW)
        masks_BHW = beside["masks_BHW"] if masks_BHW is None else masks_BHW
        prepared = self.definition.prepare(images_BCHW, masks_BHW=masks_BHW, donors_NCHW=beside["donors"])
        return self.definition.corrupt(images_BCHW, {**draw, **prepared}, source=source, target=target)

    def test_the_op_states_its_vocabulary(self) -> None:
        op = self.definition
        assert op.name == self.op
        assert self.op in op_names()
        assert op.magnitude_name.isidentifier()
        assert op.unit
        assert 0 < op.low < op.high < math.inf
        for promise in (op.deterministic, op.exact, op.monotone):
            assert isinstance(promise, bool)
        assert op.group in GROUPS
        assert op.needs <= set(NEEDS)
        assert op.built_on.partition(":")[0] in ("torch", "torchvision", "kornia")

    @pytest.mark.parametrize("shape_BCHW", SHAPES_BCHW)
    def test_the_last_frame_is_the_image_and_the_rest_keeps_shape_dtype_device_and_range(
        self, shape_BCHW: tuple[int, int, int, int]
    ) -> None:
        images_BCHW = self.images(shape_BCHW)
        before_BCHW = images_BCHW.clone()
        for policy in self.policies():
            frames_BTCHW = self.render(policy, images_BCHW)
            assert frames_BTCHW.shape == (shape_BCHW[0], policy.num_frames, *shape_BCHW[1:])
            assert frames_BTCHW.dtype == images_BCHW.dtype
            assert frames_BTCHW.device == images_BCHW.device
            assert torch.equal(frames_BTCHW[:, -1], images_BCHW), "the last frame is the image, bit for bit"
            assert bool(torch.isfinite(frames_BTCHW).all())
            assert float(frames_BTCHW.min()) >= 0
            assert float(frames_BTCHW.max()) <= 1
        assert torch.equal(images_BCHW, before_BCHW), "the images given are not written to"

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_flat_images_stay_finite_at_both_ends(self, value: float) -> None:
        images_BCHW = torch.full((2, 3, 16, 16), value, device=self.device)
        for policy in self.policies():
            assert bool(torch.isfinite(self.render(policy, images_BCHW)).all())

    def test_double_precision_is_kept(self) -> None:
        frames_BTCHW = self.render(self.policy(), self.images((2, 1, 16, 16)).double())
        assert frames_BTCHW.dtype == torch.float64

    def test_half_precision_is_that_of_the_output_alone(self) -> None:
        images_BCHW = self.images((2, 3, 16, 16)).bfloat16()
        frames_BTCHW = self.render(self.policy(), images_BCHW)
        assert frames_BTCHW.dtype == torch.bfloat16
        assert torch.equal(frames_BTCHW[:, -1], images_BCHW)
        beside = self.beside(images_BCHW)
        beside["donors"] = beside["donors"].float()
        generator = torch.Generator().manual_seed(0)
        full_BTCHW = self.policy().render(images_BCHW.float(), generator=generator, **beside)
        assert torch.equal(frames_BTCHW, full_BTCHW.bfloat16())

    def test_nothing_waits_for_the_device(self) -> None:
        """On a GPU that is not there: whatever would read a value back from it, or branch on one, raises."""
        images_BCHW = self.images((2, 3, 16, 24))
        draw, beside = self.draw(images_BCHW), self.beside(images_BCHW)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            on_gpu = {name: mode.from_tensor(value).to("cuda") for name, value in {**draw, **beside}.items()}
            images_BCHW = mode.from_tensor(images_BCHW).to("cuda")
            masks_BHW, donors_NCHW = on_gpu.pop("masks_BHW"), on_gpu.pop("donors")
            prepared = self.definition.prepare(images_BCHW, masks_BHW=masks_BHW, donors_NCHW=donors_NCHW)
            for source, target in ((0.0, self.definition.low), (self.definition.low, self.definition.high)):
                result_BCHW = self.definition.corrupt(images_BCHW, {**on_gpu, **prepared}, source=source, target=target)
                assert result_BCHW.device.type == "cuda"

    def test_it_compiles_to_one_graph(self) -> None:
        images_BCHW = self.images((2, 3, 16, 24))
        draw, op, beside = self.draw(images_BCHW), self.definition, self.beside(images_BCHW)

        def step(images_BCHW: Tensor) -> Tensor:
            prepared = op.prepare(images_BCHW, masks_BHW=beside["masks_BHW"], donors_NCHW=beside["donors"])
            return op.corrupt(images_BCHW, {**draw, **prepared}, source=op.low, target=op.high)

        compiled = torch.compile(step, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images_BCHW), step(images_BCHW))
        torch.compiler.reset()

    @pytest.mark.parametrize("randomness", ["fresh", "shared"])
    def test_magnitude_zero_is_the_identity(self, randomness: str) -> None:
        images_BCHW = self.images((2, 3, 33, 16))
        policy = self.policy(magnitude=0.0, num_frames=4, markov_order=3, randomness=randomness)
        for frame_BCHW in self.render(policy, images_BCHW).unbind(dim=1):
            assert torch.equal(frame_BCHW, images_BCHW)

    def test_a_step_to_the_same_magnitude_is_the_identity(self) -> None:
        images_BCHW = self.images((2, 3, 33, 16))
        draw = self.draw(images_BCHW)
        for magnitude in (0.0, self.definition.low, self.definition.high):
            stepped_BCHW = self.corrupt(images_BCHW, draw, source=magnitude, target=magnitude)
            assert torch.equal(stepped_BCHW, images_BCHW)

    def test_the_smallest_magnitude_changes_little_and_the_largest_much(self) -> None:
        images_BCHW = self.images((16, 1, 64, 64))
        small, large = (
            float((self.render(self.policy(magnitude=m, num_frames=2), images_BCHW)[:, 0] - images_BCHW).abs().mean())
            for m in (self.definition.low, self.definition.high)
        )
        assert small < 0.02
        assert large > self.least_change

    def test_distance_grows_with_the_magnitude(self) -> None:
        if not self.definition.monotone:
            pytest.skip(f"{self.op} does not declare itself monotone")
        images_BCHW = self.images((32, 1, 32, 32))
        ratio = self.definition.high / self.definition.low
        magnitudes = [min(self.definition.high, self.definition.low * ratio ** (i / 5)) for i in range(6)]
        distances = [_distances(self.render(self.policy(magnitude=m), images_BCHW))[0] for m in magnitudes]
        _assert_growing(distances)

    @pytest.mark.parametrize(("num_frames", "markov_order"), [(6, 1), (6, 2), (6, 5)])
    def test_distance_grows_with_the_distance_from_the_last_frame(self, num_frames: int, markov_order: int) -> None:
        if not self.definition.monotone:
            pytest.skip(f"{self.op} does not declare itself monotone")
        images_BCHW = self.images((64, 1, 32, 32))
        for randomness in ("fresh", "shared") if markov_order == num_frames - 1 else ("fresh",):
            policy = self.policy(num_frames=num_frames, markov_order=markov_order, randomness=randomness)
            _assert_growing(_distances(self.render(policy, images_BCHW))[::-1])

    def test_frames_never_depend_on_batch_neighbours(self) -> None:
        images_BCHW, others_BCHW = self.images((4, 3, 33, 16), seed=1), self.images((4, 3, 33, 16), seed=2)
        others_BCHW[2] = images_BCHW[2]
        for policy in self.policies():
            alone_TCHW = self.render(policy, images_BCHW)[2]
            assert torch.equal(alone_TCHW, self.render(policy, others_BCHW)[2])

    def test_an_image_with_its_own_draw_makes_the_same_video_outside_its_batch(self) -> None:
        images_BCHW = self.images((4, 3, 33, 16))
        draw = self.draw(images_BCHW)
        own_draw = {name: value[2:3] for name, value in draw.items()}
        target = self.definition.high
        together_BCHW = self.corrupt(images_BCHW, draw, source=0.0, target=target)
        own_mask_BHW = self.beside(images_BCHW)["masks_BHW"][2:3]
        alone_BCHW = self.corrupt(images_BCHW[2:3], own_draw, source=0.0, target=target, masks_BHW=own_mask_BHW)
        torch.testing.assert_close(alone_BCHW, together_BCHW[2:3])

    def test_parts_of_a_batch_rendered_alone_are_the_batch(self) -> None:
        images_BCHW = self.images((5, 3, 33, 16))
        beside = self.beside(images_BCHW)
        masks_BHW, donors = beside["masks_BHW"], beside["donors"]
        for randomness in ("fresh", "shared"):
            policy = self.policy(num_frames=4, markov_order=3, randomness=randomness, probability=0.5)
            whole_BTCHW = self.render(policy, images_BCHW)
            parts = [
                policy.render(
                    images_BCHW[first:end],
                    generator=torch.Generator().manual_seed(0),
                    masks_BHW=masks_BHW[first:end],
                    donors=donors,
                    part=Part(first, 5),
                )
                for first, end in ((0, 2), (2, 5))
            ]
            assert torch.equal(torch.cat(parts), whole_BTCHW)

    def test_a_draw_replays_exactly_and_a_seed_repeats(self) -> None:
        images_BCHW = self.images((2, 3, 16, 33))
        for policy in self.policies():
            draw = policy.draw((2, 3, 16, 33), generator=torch.Generator().manual_seed(3), device=self.device)
            frames_BTCHW = policy.corrupt(images_BCHW, draw, **self.beside(images_BCHW))
            assert torch.equal(frames_BTCHW, policy.corrupt(images_BCHW, draw, **self.beside(images_BCHW)))
            assert torch.equal(frames_BTCHW, self.render(policy, images_BCHW, seed=3))

    def test_randomness_is_what_the_op_declares_and_comes_from_the_generator_alone(self) -> None:
        images_BCHW = self.images((2, 3, 16, 16))
        global_state = torch.random.get_rng_state()
        first, second = (self.render(self.policy(), images_BCHW, seed=seed) for seed in (0, 1))
        assert torch.equal(first, second) == self.definition.deterministic
        assert torch.equal(torch.random.get_rng_state(), global_state)

    def test_images_of_one_batch_are_drawn_separately(self) -> None:
        images_BCHW = self.images((1, 1, 16, 16)).expand(2, -1, -1, -1).contiguous()
        beside = self.beside(images_BCHW)
        beside["masks_BHW"] = beside["masks_BHW"][:1].expand(2, -1, -1)
        frames_BTCHW = self.policy().render(images_BCHW, generator=torch.Generator().manual_seed(0), **beside)
        assert torch.equal(frames_BTCHW[0], frames_BTCHW[1]) == self.definition.deterministic

    def test_shared_randomness_is_one_draw_for_every_frame(self) -> None:
        images_BCHW = self.images((2, 1, 16, 16))
        policy = self.policy(num_frames=4, markov_order=3, randomness="shared")
        draw = policy.draw((2, 1, 16, 16), generator=torch.Generator().manual_seed(0), device=self.device)
        steps = draw.layers[0].steps
        frames_BTCHW = policy.corrupt(images_BCHW, draw, **self.beside(images_BCHW))
        for frame in (1, 2, 3):
            assert steps[frame] is steps[3]
            target = policy.layers[0].magnitude_at(frame)
            direct_BCHW = self.corrupt(images_BCHW, steps[3], source=0.0, target=target)
            assert torch.equal(frames_BTCHW[:, frame - 1], direct_BCHW.clamp(0, 1))

    def test_the_coin_falls_once_per_video(self) -> None:
        images_BCHW = self.images((64, 1, 16, 16))
        policy = self.policy(magnitude=self.definition.high, probability=0.5)
        differs_BT = (self.render(policy, images_BCHW) != images_BCHW[:, None]).flatten(start_dim=2).any(dim=2)
        assert bool((differs_BT[:, :-1].all(dim=1) | ~differs_BT.any(dim=1)).all())
        num_corrupted = int(differs_BT[:, 0].sum())
        assert 16 <= num_corrupted <= 48  # 64 fair coins: four standard deviations

    def test_exact_ops_give_every_frame_the_same_marginal_at_every_order(self) -> None:
        """Means, standard deviations and covariances over many videos of one image, within sampling error."""
        if not self.definition.exact:
            pytest.skip(f"{self.op} declares itself approximate")
        num_videos = 1 if self.definition.deterministic else 8192
        images_BCHW = self.images((1, 1, 8, 8)).expand(num_videos, -1, -1, -1).contiguous()
        star_BTN = self.render(self.policy(num_frames=5, markov_order=4), images_BCHW, seed=9).flatten(start_dim=2)
        for order in (1, 2, 3):
            policy = self.policy(num_frames=5, markov_order=order)
            frames_BTN = self.render(policy, images_BCHW, seed=order).flatten(start_dim=2)
            if self.definition.deterministic:
                torch.testing.assert_close(frames_BTN, star_BTN, atol=1e-5, rtol=0)
            else:
                _assert_same_marginals(frames_BTN.double(), star_BTN.double())

    def test_merged_layers_equal_the_two_one_after_the_other(self) -> None:
        op = self.definition
        first, second = op.low * 2, op.low * 3
        magnitude = op.merged(first, second, constant=True)
        if magnitude is None:
            pytest.skip(f"{self.op} does not merge")
        assert op.exact, "only exact ops merge exactly"
        num_videos = 1 if op.deterministic else 8192
        images_BCHW = self.images((1, 1, 8, 8)).expand(num_videos, -1, -1, -1).contiguous().double()
        generator, device = torch.Generator().manual_seed(0), torch.device(self.device)
        shape_BCHW = (num_videos, 1, 8, 8)
        twice_BCHW = images_BCHW
        for step in (first, second):
            draw = op.draw(shape_BCHW, generator=generator, device=device)
            twice_BCHW = self.corrupt(twice_BCHW, draw, source=0.0, target=step)
        draw = op.draw(shape_BCHW, generator=generator, device=device)
        once_BCHW = self.corrupt(images_BCHW, draw, source=0.0, target=magnitude)
        if op.deterministic:
            torch.testing.assert_close(once_BCHW, twice_BCHW)
        else:
            _assert_same_marginals(
                once_BCHW.flatten(start_dim=1)[:, None],
                twice_BCHW.flatten(start_dim=1)[:, None],
            )


def structured_images(shape_BCHW: tuple[int, int, int, int], *, seed: int) -> Tensor:
    """Random images with a falling spectrum, like photographs, each stretched to [0, 1]."""
    batch, channels, height, width = shape_BCHW
    generator = torch.Generator().manual_seed(seed)
    images_BCHW = torch.zeros(shape_BCHW)
    for cells in (2, 4, 8, 16):
        coarse_BCHW = torch.rand(batch, channels, min(cells, height), min(cells, width), generator=generator)
        fine_BCHW = torch.nn.functional.interpolate(coarse_BCHW, (height, width), mode="bilinear", align_corners=False)
        images_BCHW += fine_BCHW / cells**0.5
    images_BCHW += 0.1 * torch.rand(shape_BCHW, generator=generator)
    low, high = images_BCHW.amin(dim=(1, 2, 3), keepdim=True), images_BCHW.amax(dim=(1, 2, 3), keepdim=True)
    return (images_BCHW - low) / (high - low)


def defect_masks(shape_BHW: tuple[int, int, int]) -> Tensor:
    """One box per image, true inside, over an eighth of the image to half of it; a seventh image has none."""
    batch, height, width = shape_BHW
    masks_BHW = torch.zeros(shape_BHW, dtype=torch.bool)
    for i in range(batch):
        if i % 7 < 6:
            top, left = (i * 5) % max(1, height // 2), (i * 3) % max(1, width // 2)
            masks_BHW[i, top : top + height // 2 + 1, left : left + width // (2 + i % 3) + 1] = True
    return masks_BHW


def _distances(frames_BTCHW: Tensor) -> list[float]:
    """Mean squared distance of every frame from the image."""
    return [float(mean) for mean in (frames_BTCHW - frames_BTCHW[:, -1:]).square().mean(dim=(0, 2, 3, 4))]


def _assert_growing(distances: list[float]) -> None:
    """Growing but for rounding and sampling error (2%), and clearly so from end to end."""
    for smaller, larger in pairwise(distances):
        assert larger >= 0.98 * smaller - 1e-9, distances
    assert distances[-1] > 1.5 * distances[0], distances


def _assert_same_marginals(first_BTN: Tensor, second_BTN: Tensor) -> None:
    """First and second moments agree within six standard errors of their difference."""
    num = first_BTN.shape[0]
    for frame in range(first_BTN.shape[1]):
        first_BN, second_BN = first_BTN[:, frame], second_BTN[:, frame]
        spread_N = ((first_BN.var(dim=0) + second_BN.var(dim=0)) / num).sqrt()
        assert bool(((first_BN.mean(dim=0) - second_BN.mean(dim=0)).abs() <= 6 * spread_N + 1e-6).all())
        first_NN, second_NN = torch.cov(first_BN.T), torch.cov(second_BN.T)
        error_NN = ((_covariance_error(first_BN) + _covariance_error(second_BN)) / num).sqrt()
        # Two pixels are seldom lost together: too seldom, at times, for an error to be estimated.
        floor_NN = 10 / num * (1 - torch.eye(len(first_NN), dtype=first_NN.dtype)) + 1e-7
        assert bool(((first_NN - second_NN).abs() <= 6 * error_NN + floor_NN).all())


def _covariance_error(values_BN: Tensor) -> Tensor:
    """The variance of what one video adds to the sample covariances; not the normal one, as lost pixels are rare."""
    square_BN = (values_BN - values_BN.mean(dim=0)).square()
    return (square_BN.T @ square_BN / len(values_BN) - torch.cov(values_BN.T).square()).clamp(min=0)
