"""What is worked on: images, their splits, and the metric on each split."""

from dataclasses import dataclass

from torch import Tensor

from autopv.data.images import ImageSet, load_images
from autopv.data.splits import Splits, split_images
from autopv.metrics.choice import AUTO, MetricChoice, choose_metric
from autopv.metrics.metric import LastFrameMetric, make_metric
from autopv.models.base import default_size_px


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Which images, model and metric; what a search and a full training are asked alike. None leaves it to autopv."""

    data: str
    size_px: int | None = None
    channels: int | None = None
    group_by: str | None = None
    strict: bool = False
    model: str = "hvae"
    preset: str = "tiny"
    metric: str = AUTO
    seed: int = 0

    @property
    def resolved_size_px(self) -> int:
        """The side of the images: the one asked for, else the preset's."""
        return self.size_px or default_size_px(self.model, self.preset)


class Material:
    """Images, splits and metrics of a setup; each metric is made once, when it is first asked for."""

    def __init__(self, image_set: ImageSet, *, splits: Splits, metric: str) -> None:
        self.image_set, self.splits = image_set, splits
        self.choice: MetricChoice = choose_metric(
            metric,
            num_images=min(len(splits.train), len(splits.search), len(splits.final)),
            num_train=len(splits.train),
        )
        self._metrics: dict[str, LastFrameMetric] = {}

    @classmethod
    def load(cls, setup: Setup) -> "Material":
        """The images of a setup, split by its seed. Raises: InputError where they cannot serve."""
        image_set = load_images(
            setup.data,
            size_px=setup.resolved_size_px,
            channels=setup.channels,
            group_by=setup.group_by,
            strict=setup.strict,
        )
        return cls(image_set, splits=split_images(image_set, seed=setup.seed), metric=setup.metric)

    def images(self, split: str) -> Tensor:
        """The uint8 images_NCHW of one split."""
        indices: Tensor = getattr(self.splits, split)
        return self.image_set.images_NCHW[indices]

    def masks(self, split: str) -> Tensor | None:
        """The defect masks_NHW (bool) of one split, or None where the data has none."""
        if self.image_set.masks_NHW is None:
            return None
        indices: Tensor = getattr(self.splits, split)
        return self.image_set.masks_NHW[indices]

    def metric(self, split: str) -> LastFrameMetric:
        """The last-frame distance from the images of one split."""
        if split not in self._metrics:
            self._metrics[split] = make_metric(
                self.choice.name,
                self.images(split),
                data_digest=self.image_set.digest,
                num_images=self.choice.num_images,
                num_generated=self.choice.num_generated,
            )
        return self._metrics[split]

    def floor(self, split: str) -> float:
        """The distance of real training images from those of a split: what a perfect generator could reach."""
        return self.metric(split).floor_against(self.images("train"))
