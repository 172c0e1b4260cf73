"""The last-frame distance: how far a model's samples are from real images, always told with what it was measured by."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autopv.errors import MetricError, nearest
from autopv.metrics.classes import ClassKernel, kernel_by_class
from autopv.metrics.extractors import load_extractor
from autopv.metrics.features import Extractor
from autopv.metrics.frechet import frechet_distance, frechet_distance_with_influences
from autopv.metrics.kernel import kernel_distance, kernel_distance_with_influences
from autopv.metrics.selection import evenly

_HEADER_KEY = "autopv-metric"
_CLASSES_KEY = "autopv-classes"
# The official names of what the Inception network measures; all others are `fd_` or `kid_` and an extractor.
_OFFICIAL = {"fid": "fd_inception", "fid_legacy": "fd_inception-legacy", "kid": "kid_inception"}
_SHIPPED = ("fd_lite0", "kid_lite0", *_OFFICIAL)
# Tables of papers give KID in thousandths, and so do all numbers here.
KID_SCALE = 1000.0
# Little images hold nothing that a larger input would show, and a 64 px input is six times as fast as 128 px.
_SMALL_IMAGE_PX = 32
_SMALL_INPUT_PX = 64
_LARGE_INPUT_PX = 128


@dataclass(frozen=True)
class MetricName:
    """A metric's name taken apart: which distance (`fd` or `kid`), in the features of which extractor."""

    name: str
    distance: str
    extractor: str

    @classmethod
    def parse(cls, name: str) -> "MetricName":
        """`fid`, `kid`, or `fd_` or `kid_` followed by an extractor's name (as `load_extractor` takes it).

        Raises: MetricError for anything else. Whether the extractor exists is found out when it is loaded.
        """
        distance, _, extractor = _OFFICIAL.get(name, name).partition("_")
        if distance not in ("fd", "kid") or not extractor:
            raise MetricError(
                f"unknown metric {name!r}: a metric is fid or kid (official Inception), or fd_EXTRACTOR or "
                f"kid_EXTRACTOR.{nearest(name, _SHIPPED)}"
            )
        return cls(name=name, distance=distance, extractor=extractor)


@dataclass(frozen=True)
class MetricIdentity:
    """Everything that two distances must share before they may be compared."""

    name: str
    extractor: str
    extractor_digest: str
    input_size_px: int
    precision: str
    # Of real images, in the reference and on the floor's other side.
    num_images: int
    data_digest: str
    # The reference images themselves: the search and the final split of one data set are different yardsticks.
    reference_digest: str = ""
    # Of generated images, and of the real ones that stand in their place on the floor; 0 means num_images.
    num_generated: int = 0

    def __post_init__(self) -> None:
        if self.num_generated == 0:
            object.__setattr__(self, "num_generated", self.num_images)

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
        missing = sorted(known - set(values) - {"reference_digest", "num_generated"})
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

    reference_classes: the class of each of those, where distances within classes are wanted too.
    Pickles small: the reference features travel, the network is loaded once in each process that measures.
    """

    def __init__(
        self,
        *,
        identity: MetricIdentity,
        reference_features_ND: Tensor,
        reference_classes: Sequence[str] | None = None,
    ) -> None:
        if len(reference_features_ND) != identity.num_images:
            raise MetricError(
                f"reference features must be one row for each of the {identity.num_images} images, "
                f"but got {len(reference_features_ND)}"
            )
        self.identity = identity
        self._distance = MetricName.parse(identity.name).distance
        self._reference_features_ND = reference_features_ND
        self.reference_classes = None if reference_classes is None else tuple(reference_classes)

    def distance(self, images_MCHW: Tensor) -> float:
        """The distance of exactly `identity.num_generated` images (float in [0, 1]; uint8 is rescaled); KID x 1000.

        Raises: MetricError for another number of images (the distance depends on it) or for images that are not finite.
        """
        self._check_number(images_MCHW)
        return self._of_images(images_MCHW)

    def distance_by_class(self, images_MCHW: Tensor, *, classes: Sequence[str]) -> tuple[float, dict[str, ClassKernel]]:
        """`distance`, and within each class that has enough images on both sides the kernel distance x 1000.

        classes: of each image. Raises: MetricError also for a metric whose reference has no classes.
        """
        if self.reference_classes is None:
            raise MetricError("distances by class need a metric that was made with the reference images' classes")
        self._check_number(images_MCHW)
        features_MD = self._extractor().features(as_float(images_MCHW))
        reference_ND = self._reference_features_ND
        found = kernel_by_class(
            reference_ND, features_MD, reference_classes=self.reference_classes, generated_classes=classes
        )
        return distance_of_features(reference_ND, features_MD, distance=self._distance), {
            name: replace(one, kernel=KID_SCALE * one.kernel, standard_error=KID_SCALE * one.standard_error)
            for name, one in found.items()
        }

    def measure(self, images_NCHW: Tensor) -> Measurement:
        """`distance`, together with the identity it holds for."""
        return Measurement(self.distance(images_NCHW), self.identity)

    def floor_against(self, images_NCHW: Tensor) -> float:
        """The distance of real images, disjoint from the reference: what a perfect generator could reach.

        Of more than `identity.num_generated` images that many are taken evenly. A kernel distance, which has no
        bias, makes do with fewer. Raises: MetricError for too few images.
        """
        wanted, given = self.identity.num_generated, len(images_NCHW)
        if given < wanted and self._distance == "fd":
            raise MetricError(
                f"the floor needs as many real images as are generated (n = {wanted}), but got {given}; "
                f"make the metric with num_generated={given}"
            )
        return self._of_images(images_NCHW[evenly(given, count=min(wanted, given))])

    def save(self, path: Path) -> None:
        """Writes the reference features and the identity to one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        header = {_HEADER_KEY: json.dumps(self.identity.to_dict())}
        if self.reference_classes is not None:
            header[_CLASSES_KEY] = json.dumps(self.reference_classes)
        save_file({_HEADER_KEY: self._reference_features_ND.contiguous()}, partial, metadata=header)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "LastFrameMetric":
        """The metric that `save` wrote. Raises: MetricError where the file is missing, damaged or something else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                return cls(
                    identity=MetricIdentity.from_dict(json.loads(header[_HEADER_KEY])),
                    reference_features_ND=file.get_tensor(_HEADER_KEY),
                    reference_classes=json.loads(header.get(_CLASSES_KEY, "null")),
                )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise MetricError(f"{path} cannot be read as the references of a metric: {error}") from error

    def _check_number(self, images_MCHW: Tensor) -> None:
        if len(images_MCHW) != self.identity.num_generated:
            raise MetricError(
                f"{self.identity.name} is defined at n = {self.identity.num_generated} and changes with n, "
                f"but got {len(images_MCHW)} images; pass {self.identity.num_generated}"
            )

    def _of_images(self, images_MCHW: Tensor) -> float:
        features_MD = self._extractor().features(as_float(images_MCHW))
        return distance_of_features(self._reference_features_ND, features_MD, distance=self._distance)

    def _extractor(self) -> Extractor:
        extractor = load_extractor(self.identity.extractor, input_size_px=self.identity.input_size_px)
        if extractor.digest != self.identity.extractor_digest:
            raise MetricError(
                f"this metric was made with extractor {self.identity.extractor_digest[:12]}, but this process has "
                f"{extractor.digest[:12]}; run both with one version of autopv"
            )
        return extractor


def distance_of_features(features_a_ND: Tensor, features_b_MD: Tensor, *, distance: str) -> float:
    """The Fréchet distance (`fd`), or the kernel distance x 1000 (`kid`), between two sets of features."""
    if distance == "fd":
        return frechet_distance(features_a_ND, features_b_MD)
    return KID_SCALE * kernel_distance(features_a_ND, features_b_MD)


def estimate_of_features(
    features_a_ND: Tensor, features_b_MD: Tensor, *, distance: str
) -> tuple[float, Tensor, Tensor]:
    """`distance_of_features`, and the influence of every image of either set on it, as `Estimate` takes them."""
    if distance == "fd":
        return frechet_distance_with_influences(features_a_ND, features_b_MD)
    value, influence_a_N, influence_b_M = kernel_distance_with_influences(features_a_ND, features_b_MD)
    return KID_SCALE * value, KID_SCALE * influence_a_N, KID_SCALE * influence_b_M


def metric_names() -> tuple[str, ...]:
    """The names of the metrics that need nothing of the user's; `fd_` and `kid_` take any extractor besides."""
    return _SHIPPED


def metric_name(distance: str, extractor: str) -> str:
    """The name of a distance (`fd` or `kid`) in the features of an extractor; the inverse of `MetricName.parse`."""
    name = f"{distance}_{extractor}"
    return next((official for official, meant in _OFFICIAL.items() if meant == name), name)


def default_input_size_px(extractor: str, *, image_size_px: int) -> int | None:
    """What images of this side are resized to for an extractor; None leaves it to the extractor."""
    if extractor != "lite0":
        return None
    return _SMALL_INPUT_PX if image_size_px <= _SMALL_IMAGE_PX else _LARGE_INPUT_PX


def make_metric(
    name: str,
    reference_images_NCHW: Tensor,
    *,
    data_digest: str,
    num_images: int | None = None,
    num_generated: int | None = None,
    input_size_px: int | None = None,
    reference_classes: Sequence[str] | None = None,
) -> LastFrameMetric:
    """The named metric against the reference images (uint8, or float in [0, 1]).

    num_images: the n of the metric, at most the number of reference images (the default); fewer are
    taken evenly. num_generated: the n of what is measured; default as many.
    input_size_px: what images are resized to for the extractor; default, for lite0, 64 for images up to 32 px and
    else 128; for others, what they are made for. reference_classes: of each reference image, for distances by class.
    """
    parsed = MetricName.parse(name)
    available = len(reference_images_NCHW)
    num_images = available if num_images is None else num_images
    num_generated = num_images if num_generated is None else num_generated
    if not 2 <= num_images <= available:
        raise MetricError(
            f"2 <= num_images <= number of reference images must hold, but got num_images={num_images} "
            f"and {available} reference images"
        )
    if num_generated < 2:
        raise MetricError(f"num_generated >= 2 must hold, but got num_generated={num_generated}")
    if input_size_px is None:
        side_px = max(reference_images_NCHW.shape[-2:])
        input_size_px = default_input_size_px(parsed.extractor, image_size_px=side_px)
    extractor = load_extractor(parsed.extractor, input_size_px=input_size_px)
    rows = evenly(available, count=num_images)
    reference_images_NCHW = as_float(reference_images_NCHW[rows])
    return LastFrameMetric(
        identity=MetricIdentity(
            # A file's path has become absolute: the name must mean the same in any folder.
            name=name if extractor.spec == parsed.extractor else metric_name(parsed.distance, extractor.spec),
            extractor=extractor.spec,
            extractor_digest=extractor.digest,
            input_size_px=extractor.input_size_px,
            precision=extractor.precision,
            num_images=num_images,
            num_generated=num_generated,
            data_digest=data_digest,
            reference_digest=_digest(reference_images_NCHW),
        ),
        reference_features_ND=extractor.features(reference_images_NCHW),
        reference_classes=None if reference_classes is None else [reference_classes[row] for row in rows.tolist()],
    )


def as_float(images_NCHW: Tensor) -> Tensor:
    """Images as float32 in [0, 1]."""
    return images_NCHW.to(torch.float32) / 255 if images_NCHW.dtype == torch.uint8 else images_NCHW


def _digest(images_NCHW: Tensor) -> str:
    # Rounded to 8 bits, so that uint8 images and the same images as floats are one reference.
    pixels = (images_NCHW.clamp(0, 1) * 255).round().to("cpu", torch.uint8).contiguous()
    return hashlib.sha256(str(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).hexdigest()


def _brief(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
