"""The last-frame distance: how far a model's samples are from real images, always told with what it was measured by."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv.errors import MetricError, nearest
from autopv.metrics.features import Extractor, load_extractor
from autopv.metrics.frechet import frechet_distance

_HEADER_KEY = "autopv-metric"
# Metric name -> feature extractor; the distance is the Fréchet distance.
_EXTRACTORS = {"fd_lite0": "lite0"}
# Little images hold nothing that a larger input would show, and a 64 px input is six times as fast as 128 px.
_SMALL_IMAGE_PX = 32
_SMALL_INPUT_PX = 64
_LARGE_INPUT_PX = 128


@dataclass(frozen=True)
class MetricIdentity:
    """Everything that two distances must share before they may be compared."""

    name: str
    extractor: str
    extractor_digest: str
    input_size_px: int
    precision: str
    num_images: int
    data_digest: str
    # The reference images themselves: the search and the final split of one data set are different yardsticks.
    reference_digest: str = ""

    def check_comparable(self, other: "MetricIdentity") -> None:
        """Nothing, when numbers of both may be compared; else raises MetricError naming what differs."""
        differing = [
            f"{field.name} ({_brief(getattr(self, field.name))} and {_brief(getattr(other, field.name))})"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        if differing:
            raise MetricError(
                "distances may be compared only when metric, extractor, input size, precision, number of images and "
                f"data are the same, but these differ: {', '.join(differing)}; measure both anew with one metric"
            )

    def to_dict(self) -> dict[str, Any]:
        """The identity as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MetricIdentity":
        """The identity that `to_dict` wrote."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                raise MetricError(f"unknown key {key!r} in a metric identity.{nearest(key, known)}")
        missing = sorted(known - set(values) - {"reference_digest"})
        if missing:
            raise MetricError(f"a metric identity must have {', '.join(missing)}, but got {', '.join(sorted(values))}")
        return cls(**values)


@dataclass(frozen=True)
class Measurement:
    """A distance and what it was measured by."""

    value: float
    identity: MetricIdentity

    def excess(self, floor: "Measurement") -> float:
        """This distance minus the floor. Raises: MetricError when the two are not comparable."""
        self.identity.check_comparable(floor.identity)
        return self.value - floor.value


class LastFrameMetric:
    """Distances of images from the reference images it was made with.

    Pickles small: the reference features travel, the network is loaded once in each process that measures.
    """

    def __init__(self, *, identity: MetricIdentity, reference_features_ND: Tensor) -> None:
        if len(reference_features_ND) != identity.num_images:
            raise MetricError(
                f"reference features must be one row for each of the {identity.num_images} images, "
                f"but got {len(reference_features_ND)}"
            )
        self.identity = identity
        self._reference_features_ND = reference_features_ND

    def distance(self, images_NCHW: Tensor) -> float:
        """The Fréchet distance of exactly `identity.num_images` images (float in [0, 1]; uint8 is rescaled).

        Raises: MetricError for another number of images (the distance depends on it) or for images that are not finite.
        """
        if len(images_NCHW) != self.identity.num_images:
            raise MetricError(
                f"{self.identity.name} is defined at n = {self.identity.num_images} and changes with n, "
                f"but got {len(images_NCHW)} images; pass {self.identity.num_images}"
            )
        return frechet_distance(self._reference_features_ND, self._extractor().features(_as_float(images_NCHW)))

    def measure(self, images_NCHW: Tensor) -> Measurement:
        """`distance`, together with the identity it holds for."""
        return Measurement(self.distance(images_NCHW), self.identity)

    def floor_against(self, images_NCHW: Tensor) -> float:
        """The distance of real images, disjoint from the reference: what a perfect generator could reach.

        Of more than `identity.num_images` images, that many are taken at even steps.
        """
        if len(images_NCHW) < self.identity.num_images:
            raise MetricError(
                f"the floor needs as many real images as the reference has (n = {self.identity.num_images}), "
                f"but got {len(images_NCHW)}; make the metric with num_images={len(images_NCHW)}"
            )
        return self.distance(evenly(images_NCHW, count=self.identity.num_images))

    def save(self, path: Path) -> None:
        """Writes the reference features and the identity to one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        header = {_HEADER_KEY: json.dumps(self.identity.to_dict())}
        save_file({_HEADER_KEY: self._reference_features_ND.contiguous()}, partial, metadata=header)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "LastFrameMetric":
        """The metric that `save` wrote. Raises: MetricError where the file is missing, damaged or something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                identity = MetricIdentity.from_dict(json.loads((file.metadata() or {})[_HEADER_KEY]))
                return cls(identity=identity, reference_features_ND=file.get_tensor(_HEADER_KEY))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise MetricError(f"{path} cannot be read as the references of a metric: {error}") from error

    def _extractor(self) -> Extractor:
        extractor = load_extractor(self.identity.extractor, input_size_px=self.identity.input_size_px)
        if extractor.digest != self.identity.extractor_digest:
            raise MetricError(
                f"this metric was made with extractor {self.identity.extractor_digest[:12]}, but this process has "
                f"{extractor.digest[:12]}; run both with one version of autopv"
            )
        return extractor


def metric_names() -> tuple[str, ...]:
    """The names that `make_metric` knows."""
    return tuple(_EXTRACTORS)


def make_metric(
    name: str,
    reference_images_NCHW: Tensor,
    *,
    data_digest: str,
    num_images: int | None = None,
    input_size_px: int | None = None,
) -> LastFrameMetric:
    """The named metric against the reference images (uint8, or float in [0, 1]).

    num_images: the n of the metric, at most the number of reference images (the default); fewer are taken at even
    steps, so that both sides of a distance, and of its floor, have the same n.
    input_size_px: what images are resized to for the extractor; default 64 for images up to 32 px, else 128.
    """
    if name not in _EXTRACTORS:
        raise MetricError(f"unknown metric {name!r}.{nearest(name, _EXTRACTORS)}")
    available = len(reference_images_NCHW)
    num_images = available if num_images is None else num_images
    if not 2 <= num_images <= available:
        raise MetricError(
            f"2 <= num_images <= number of reference images must hold, but got num_images={num_images} "
            f"and {available} reference images"
        )
    if input_size_px is None:
        small = max(reference_images_NCHW.shape[-2:]) <= _SMALL_IMAGE_PX
        input_size_px = _SMALL_INPUT_PX if small else _LARGE_INPUT_PX
    extractor = load_extractor(_EXTRACTORS[name], input_size_px=input_size_px)
    reference_images_NCHW = evenly(_as_float(reference_images_NCHW), count=num_images)
    return LastFrameMetric(
        identity=MetricIdentity(
            name=name,
            extractor=extractor.name,
            extractor_digest=extractor.digest,
            input_size_px=input_size_px,
            precision=extractor.precision,
            num_images=num_images,
            data_digest=data_digest,
            reference_digest=_digest(reference_images_NCHW),
        ),
        reference_features_ND=extractor.features(reference_images_NCHW),
    )


def evenly(images_NCHW: Tensor, *, count: int) -> Tensor:
    """`count` of the images at even steps: data sets are sorted by name, so the first ones would be one class."""
    return images_NCHW[torch.arange(count) * len(images_NCHW) // count]


def _as_float(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.to(torch.float32) / 255 if images_NCHW.dtype == torch.uint8 else images_NCHW


def _digest(images_NCHW: Tensor) -> str:
    # Rounded to 8 bits, so that uint8 images and the same images as floats are one reference.
    pixels = (images_NCHW.clamp(0, 1) * 255).round().to("cpu", torch.uint8).contiguous()
    return hashlib.sha256(str(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()


def _brief(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
