import math
from dataclasses import replace

import pytest
import torch

from autopv.errors import MetricError
from autopv.metrics.classes import by_class
from autopv.metrics.extractors import load_extractor
from autopv.metrics.kernel import kernel_distance
from autopv.metrics.metric import (
    LastFrameMetric,
    Measurement,
    MetricIdentity,
    MetricName,
    distance_of_features,
    estimate_of_features,
    make_metric,
    metric_names,
)
from autopv.metrics.selection import evenly
from autopv.testing.metric_suite import MetricSuite


class TestFdLite0(MetricSuite):
    metric = "fd_lite0"


class TestKidLite0(MetricSuite):
    metric = "kid_lite0"


IDENTITY = MetricIdentity(
    name="fd_lite0",
    extractor="lite0",
    extractor_digest="a" * 64,
    input_size_px=64,
    precision="fp32",
    num_images=8,
    data_digest="b" * 64,
    reference_digest="c" * 64,
)


def images(count: int, *, size_px: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, size_px, size_px, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "kid_lite0"),
        ("extractor", "inception"),
        ("extractor_digest", "d" * 64),
        ("input_size_px", 128),
        ("precision", "bf16"),
        ("num_images", 9),
        ("num_generated", 9),
        ("data_digest", "d" * 64),
        ("reference_digest", "d" * 64),
    ],
)
def test_every_field_makes_distances_incomparable(field: str, value: str | int) -> None:
    IDENTITY.check_comparable(replace(IDENTITY))
    other = replace(IDENTITY, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(MetricError, match=rf"these differ: {field} \("):
        IDENTITY.check_comparable(other)
    with pytest.raises(MetricError, match=field):
        Measurement(2.0, IDENTITY).excess(Measurement(1.0, other))


def test_identity_survives_json_values() -> None:
    assert MetricIdentity.from_dict(IDENTITY.to_dict()) == IDENTITY
    with pytest.raises(MetricError, match=r"unknown key 'num_image' .* Did you mean 'num_images'"):
        MetricIdentity.from_dict({**IDENTITY.to_dict(), "num_image": 3})
    with pytest.raises(MetricError, match="must have num_images"):
        MetricIdentity.from_dict({key: value for key, value in IDENTITY.to_dict().items() if key != "num_images"})


def test_an_identity_from_before_num_generated_takes_as_many_as_real_images() -> None:
    values = {key: value for key, value in IDENTITY.to_dict().items() if key != "num_generated"}
    assert MetricIdentity.from_dict(values).num_generated == 8


def test_names_are_taken_apart() -> None:
    found = {name: MetricName.parse(name) for name in (*metric_names(), "kid_mine", "fd_/a/net_v2.pt", "fd_a.b:c")}
    assert {name: (one.distance, one.extractor) for name, one in found.items()} == {
        "fd_lite0": ("fd", "lite0"),
        "kid_lite0": ("kid", "lite0"),
        "fid": ("fd", "inception"),
        "fid_legacy": ("fd", "inception-legacy"),
        "kid": ("kid", "inception"),
        "kid_mine": ("kid", "mine"),
        "fd_/a/net_v2.pt": ("fd", "/a/net_v2.pt"),
        "fd_a.b:c": ("fd", "a.b:c"),
    }


@pytest.mark.parametrize("name", ["fd", "fd_", "fidd", "lite0", "", "prdc_lite0"])
def test_unknown_metric_is_told_what_there_is(name: str) -> None:
    with pytest.raises(MetricError, match=rf"unknown metric '{name}': a metric is fid or kid .* Known: fd_lite0"):
        make_metric(name, images(4), data_digest="d")
    with pytest.raises(MetricError, match=r"unknown feature extractor 'lite'\. Did you mean 'lite0'"):
        make_metric("fd_lite", images(4), data_digest="d")


def test_kid_is_the_kernel_distance_in_thousandths() -> None:
    metric = make_metric("kid_lite0", images(8), data_digest="d", num_generated=20)
    extractor = load_extractor("lite0", input_size_px=64)
    sets = [extractor.features(images(8)), extractor.features(images(20, seed=1))]
    assert metric.distance(images(20, seed=1)) == pytest.approx(1000 * kernel_distance(*sets), rel=1e-9)


def test_more_generated_than_real_images_can_be_asked_for() -> None:
    metric = make_metric("fd_lite0", images(8), data_digest="d", num_generated=20)
    assert (metric.identity.num_images, metric.identity.num_generated) == (8, 20)
    assert metric.distance(images(20, seed=1)) < make_metric("fd_lite0", images(8), data_digest="d").distance(
        images(8, seed=1)
    )
    with pytest.raises(MetricError, match="but got 8 images; pass 20"):
        metric.distance(images(8, seed=1))


def test_floor_of_a_kernel_distance_makes_do_with_fewer_images() -> None:
    metric = make_metric("kid_lite0", images(8), data_digest="d", num_generated=20)
    assert math.isfinite(metric.floor_against(images(12, seed=1)))
    with pytest.raises(MetricError, match=r"floor needs as many real images as are generated \(n = 20\)"):
        make_metric("fd_lite0", images(8), data_digest="d", num_generated=20).floor_against(images(12, seed=1))


@pytest.mark.parametrize("distance", ["fd", "kid"])
def test_influences_come_with_the_same_value(distance: str) -> None:
    extractor = load_extractor("lite0", input_size_px=32)
    a, b = extractor.features(images(8)), extractor.features(images(20, seed=1))
    value, influence_a_N, influence_b_M = estimate_of_features(a, b, distance=distance)
    assert value == pytest.approx(distance_of_features(a, b, distance=distance), rel=1e-9)
    assert (len(influence_a_N), len(influence_b_M)) == (8, 20)


@pytest.mark.parametrize(("size_px", "input_size_px"), [(16, 64), (32, 64), (33, 128)])
def test_input_size_follows_the_images(size_px: int, input_size_px: int) -> None:
    assert make_metric("fd_lite0", images(2, size_px=size_px), data_digest="d").identity.input_size_px == input_size_px


def test_input_size_can_be_asked_for_and_matters() -> None:
    small, large = (make_metric("fd_lite0", images(8), data_digest="d", input_size_px=size) for size in (32, 64))
    assert small.identity.input_size_px == 32
    assert small.distance(images(8, seed=1)) != large.distance(images(8, seed=1))


def test_fewer_images_are_taken_evenly() -> None:
    metric = make_metric("fd_lite0", images(12), data_digest="d", num_images=4)
    assert metric.identity.num_images == 4
    assert metric.distance(images(12)[evenly(12, count=4)]) == pytest.approx(0.0, abs=1e-3)


def test_reference_is_part_of_the_identity() -> None:
    one, other = (make_metric("fd_lite0", images(4, seed=seed), data_digest="d").identity for seed in (0, 1))
    with pytest.raises(MetricError, match="reference_digest"):
        one.check_comparable(other)


@pytest.mark.parametrize("num_images", [0, 1, 5])
def test_impossible_n_is_refused(num_images: int) -> None:
    with pytest.raises(MetricError, match=f"but got num_images={num_images} and 4 reference images"):
        make_metric("fd_lite0", images(4), data_digest="d", num_images=num_images)


def test_floor_with_too_few_images_tells_the_remedy() -> None:
    with pytest.raises(MetricError, match="make the metric with num_generated=3"):
        make_metric("fd_lite0", images(4), data_digest="d").floor_against(images(3))


def test_metric_of_another_extractor_is_refused() -> None:
    metric = LastFrameMetric(
        identity=replace(IDENTITY, num_images=4, num_generated=4), reference_features_ND=torch.zeros(4, 1280)
    )
    with pytest.raises(MetricError, match="made with extractor aaaaaaaaaaaa"):
        metric.distance(images(4))
    with pytest.raises(MetricError, match="one row for each of the 8 images, but got 4"):
        LastFrameMetric(identity=IDENTITY, reference_features_ND=torch.zeros(4, 1280))


def test_distances_by_class_are_those_of_an_evaluation_and_travel_with_the_file(tmp_path):
    real, made = images(24, seed=1), images(20, seed=2)
    real_classes, made_classes = ["crack", "good"] * 12, ["good"] * 5 + ["crack"] * 15
    made_by = {"data_digest": "", "num_images": 12, "num_generated": 20, "reference_classes": real_classes}
    make_metric("kid_lite0", real, **made_by).save(tmp_path / "metric")
    metric = LastFrameMetric.load(tmp_path / "metric")
    distance, found = metric.distance_by_class(made, classes=made_classes)
    assert distance == metric.distance(made)
    features = load_extractor("lite0", input_size_px=64).features
    rows = evenly(24, count=12)
    expected = by_class(
        features(real[rows]),
        features(made),
        reference_classes=[real_classes[row] for row in rows.tolist()],
        generated_classes=made_classes,
        label="made",
    ).distances
    assert list(found) == [one.name for one in expected]
    for one in expected:
        assert found[one.name].kernel == 1000 * one.kernel.value
        assert found[one.name].standard_error == pytest.approx(1000 * one.kernel.standard_error)
        assert (found[one.name].num_reference, found[one.name].num_generated) == (one.num_reference, one.num_generated)


def test_distances_by_class_need_classes():
    metric = make_metric("kid_lite0", images(8), data_digest="")
    with pytest.raises(MetricError, match="classes"):
        metric.distance_by_class(images(8), classes=["good"] * 8)
