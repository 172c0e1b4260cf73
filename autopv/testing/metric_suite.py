"""The conformance suite of metrics: what every distance between sets of images must hold."""

import math
import pickle
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autopv.errors import MetricError
from autopv.metrics.metric import LastFrameMetric, Measurement, make_metric, metric_names

NUM_IMAGES = 24
SIZE_PX = 32


class MetricSuite:
    """Subclass it with the metric's registered name:

    class TestFdLite0(MetricSuite):
        metric = "fd_lite0"
    """

    metric: ClassVar[str]

    def images(self, *, seed: int, count: int = NUM_IMAGES, channels: int = 1) -> Tensor:
        """Smooth random images (count, channels, 32, 32) in [0, 1]: one distribution for all seeds."""
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, channels, 6, 6, generator=generator)
        return F.interpolate(coarse, size=(SIZE_PX, SIZE_PX), mode="bicubic").clamp(0, 1)

    def corrupted(self, images_NCHW: Tensor, *, strength: float) -> Tensor:
        """The images under white noise."""
        noise = torch.randn(images_NCHW.shape, generator=torch.Generator().manual_seed(99))
        return (images_NCHW + strength * noise).clamp(0, 1)

    @pytest.fixture
    def made(self) -> LastFrameMetric:
        """The metric against one fixed reference."""
        return make_metric(self.metric, self.images(seed=0), data_digest="suite")

    def test_the_name_is_registered(self, made: LastFrameMetric) -> None:
        assert self.metric in metric_names()
        assert made.identity.name == self.metric

    def test_nothing_is_nearer_than_the_reference_itself(self, made: LastFrameMetric) -> None:
        own = made.distance(self.images(seed=0))
        # An unbiased distance is below zero where each image meets itself; any other must be zero.
        assert own < 0 or own == pytest.approx(0.0, abs=1e-3)
        assert own < made.distance(self.images(seed=1))

    def test_distance_is_finite_and_repeats(self, made: LastFrameMetric) -> None:
        value = made.distance(self.images(seed=1))
        assert math.isfinite(value)
        assert made.distance(self.images(seed=1)) == value

    def test_distance_grows_with_corruption(self, made: LastFrameMetric) -> None:
        real = self.images(seed=1)
        values = [made.distance(self.corrupted(real, strength=strength)) for strength in (0.0, 0.1, 0.3)]
        assert values == sorted(values)
        assert values[2] > 1.1 * abs(values[0])

    def test_order_of_the_images_does_not_matter(self, made: LastFrameMetric) -> None:
        real = self.images(seed=1)
        assert made.distance(real.flip(0)) == pytest.approx(made.distance(real), rel=1e-5)

    def test_uint8_and_float_images_agree(self, made: LastFrameMetric) -> None:
        stored = (self.images(seed=1) * 255).round().to(torch.uint8)
        assert made.distance(stored) == made.distance(stored.to(torch.float32) / 255)
        as_uint8 = make_metric(self.metric, stored, data_digest="suite")
        assert as_uint8.identity == make_metric(self.metric, stored.float() / 255, data_digest="suite").identity

    @pytest.mark.parametrize("channels", [3, 4])
    def test_colour_and_alpha_are_taken(self, made: LastFrameMetric, channels: int) -> None:
        assert math.isfinite(made.distance(self.images(seed=1, channels=channels)))

    @pytest.mark.parametrize("count", [NUM_IMAGES - 1, NUM_IMAGES + 1])
    def test_another_number_of_images_is_refused(self, made: LastFrameMetric, count: int) -> None:
        with pytest.raises(MetricError, match=f"n = {NUM_IMAGES} .* but got {count} images"):
            made.distance(self.images(seed=1, count=count))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_images_that_are_not_finite_are_refused(self, made: LastFrameMetric, value: float) -> None:
        images = self.images(seed=1)
        images[3, 0, 5, 5] = value
        with pytest.raises(MetricError, match=rf"finite, but 1 of {NUM_IMAGES}"):
            made.distance(images)

    def test_images_of_another_range_are_refused(self, made: LastFrameMetric) -> None:
        with pytest.raises(MetricError, match=r"must lie in \[0, 1\]"):
            made.distance(self.images(seed=1) * 2 - 1)

    def test_a_pickled_metric_measures_the_same(self, made: LastFrameMetric) -> None:
        content = pickle.dumps(made)
        # Well below the weights of any extractor: those are loaded where they are used.
        assert len(content) < 1_000_000
        again = pickle.loads(content)
        assert again.identity == made.identity
        assert again.distance(self.images(seed=1)) == made.distance(self.images(seed=1))

    def test_another_data_set_is_not_comparable(self, made: LastFrameMetric) -> None:
        other = make_metric(self.metric, self.images(seed=2), data_digest="other")
        with pytest.raises(MetricError, match="data_digest"):
            made.identity.check_comparable(other.identity)
        with pytest.raises(MetricError, match="compared only when"):
            made.measure(self.images(seed=1)).excess(other.measure(self.images(seed=1)))

    def test_excess_is_the_distance_minus_the_floor(self, made: LastFrameMetric) -> None:
        floor = Measurement(made.floor_against(self.images(seed=1, count=NUM_IMAGES + 5)), made.identity)
        noisy = made.measure(self.corrupted(self.images(seed=2), strength=0.3))
        assert noisy.excess(floor) == noisy.value - floor.value
        assert noisy.excess(floor) > 0
