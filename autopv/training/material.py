"""What is worked on: images, their splits, and the metric on each split."""

from dataclasses import dataclass

from torch import Tensor

from autopv.data.class_labels import ClassLabels, class_labels, classes_of_images
from autopv.data.filed import FiledTensor, file_rows, take_rows
from autopv.data.images import ImageSet, load_images
from autopv.data.memory import fits_in_memory
from autopv.data.splits import Splits, split_images
from autopv.errors import DataError
from autopv.metrics.choice import AUTO, MetricChoice, choose_metric
from autopv.metrics.metric import LastFrameMetric, make_metric
from autopv.models.base import default_size_px

# More is not sent to worker processes, each of which would hold a copy, but put into a file that they share.
SENT_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Which images, model and metric; what a search and a full training are asked alike. None leaves it to autopv.

    classes: whether the model learns of which class each image is.
    """

    data: str
    size_px: int | None = None
    channels: int | None = None
    group_by: str | None = None
    strict: bool = False
    classes: bool = False
    model: str = "hvae"
    preset: str = "tiny"
    metric: str = AUTO
    seed: int = 0

    @property
    def resolved_size_px(self) -> int:
        """The side of the images: the one asked for, else the preset's."""
        return self.size_px or default_size_px(self.model, self.preset)

    def load_images(self) -> ImageSet:
        """All images, not split. Raises: InputError where they cannot serve."""
        return load_images(
            self.data,
            size_px=self.resolved_size_px,
            channels=self.channels,
            group_by=self.group_by,
            strict=self.strict,
        )


class Material:
    """Images, splits and metrics of a setup; each metric is made once, when it is first asked for.

    classes: of the training images, where the model is to learn them.
    """

    def __init__(self, image_set: ImageSet, *, splits: Splits, metric: str, by_class: bool = False) -> None:
        self.image_set, self.splits = image_set, splits
        self.classes: ClassLabels | None = class_labels(image_set, splits.train) if by_class else None
        self.choice: MetricChoice = choose_metric(
            metric,
            num_images=min(len(splits.train), len(splits.search), len(splits.final)),
            num_train=len(splits.train),
        )
        self._metrics: dict[str, LastFrameMetric] = {}

    @classmethod
    def load(cls, setup: Setup) -> "Material":
        """The images of a setup, split by its seed. Raises: InputError where they cannot serve."""
        image_set = setup.load_images()
        splits = split_images(image_set, seed=setup.seed)
        return cls(image_set, splits=splits, metric=setup.metric, by_class=setup.classes)

    def images(self, split: str) -> Tensor:
        """The uint8 images_NCHW of one split; mapped from a file of the cache where they would not fit in memory."""
        return take_rows(self.image_set.images_NCHW, self.splits.rows(split), key=self.splits.key(split))

    def masks(self, split: str) -> Tensor | None:
        """The defect masks_NHW (bool) of one split, or None where the data has none."""
        if self.image_set.masks_NHW is None:
            return None
        return take_rows(self.image_set.masks_NHW, self.splits.rows(split), key=self.splits.key(split, of="masks"))

    def for_workers(self, split: str) -> tuple[Tensor | FiledTensor, Tensor | FiledTensor | None]:
        """Images and masks of one split to send to other processes: many are sent as a file that all of them map."""
        images_NCHW, masks_NHW = self.image_set.images_NCHW, self.image_set.masks_NHW
        rows = self.splits.rows(split)
        num_bytes = len(rows) * images_NCHW[:1].numel()
        if num_bytes > SENT_BYTES:
            try:
                images = file_rows(images_NCHW, rows, key=self.splits.key(split))
                if masks_NHW is None:
                    return images, None
                return images, file_rows(masks_NHW, rows, key=self.splits.key(split, of="masks"))
            except DataError:
                # Without a cache folder that can be written, copies have to do as long as they can.
                if not fits_in_memory(num_bytes):
                    raise
        return self.images(split), self.masks(split)

    def metric(self, split: str) -> LastFrameMetric:
        """The last-frame distance from the images of one split."""
        if split not in self._metrics:
            names = None if self.classes is None else classes_of_images(self.image_set)
            self._metrics[split] = make_metric(
                self.choice.name,
                self.images(split),
                data_digest=self.image_set.digest,
                num_images=self.choice.num_images,
                num_generated=self.choice.num_generated,
                reference_classes=None if names is None else [names[row] for row in self.splits.rows(split).tolist()],
            )
        return self._metrics[split]

    def floor(self, split: str) -> float:
        """The distance of real training images from those of a split: what a perfect generator could reach."""
        return self.metric(split).floor_against(self.images("train"))
