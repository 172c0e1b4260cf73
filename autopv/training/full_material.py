"""What a full training learns from and is measured by: the splits' images, or every image and no measure."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from autopv.data.class_labels import ClassLabels, class_labels
from autopv.metrics.metric import LastFrameMetric
from autopv.training.material import Material, Setup

TRAIN, ALL = "train", "all"


@dataclass(frozen=True, eq=False, kw_only=True)
class FullMaterial:
    """images_NCHW (uint8), masks_NHW and classes to learn from. metric and floor: on the search split, if any."""

    trained_on: str
    images_NCHW: Tensor
    masks_NHW: Tensor | None
    classes: ClassLabels | None
    metric: LastFrameMetric | None
    floor: float | None

    @classmethod
    def load(cls, setup: Setup, *, all_images: bool, is_measured: bool = True) -> Self:
        """The train split measured by the search split (if it is measured here), or all images.

        Raises: InputError where they cannot serve.
        """
        if not all_images:
            material = Material.load(setup)
            return cls(
                trained_on=TRAIN,
                images_NCHW=material.images("train"),
                masks_NHW=material.masks("train"),
                classes=material.classes,
                metric=material.metric("search") if is_measured else None,
                floor=material.floor("search") if is_measured else None,
            )
        image_set = setup.load_images()
        return cls(
            trained_on=ALL,
            images_NCHW=image_set.images_NCHW,
            masks_NHW=image_set.masks_NHW,
            classes=class_labels(image_set) if setup.classes else None,
            metric=None,
            floor=None,
        )
