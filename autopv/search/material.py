"""What a job works on: images, their splits, and the metric on each split."""

from pathlib import Path

from torch import Tensor

from autopv.data.images import ImageSet, load_images
from autopv.data.splits import Splits, split_images
from autopv.errors import RunFolderError
from autopv.metrics.metric import LastFrameMetric, make_metric
from autopv.search.run_folder import RunSettings


class Material:
    """Images, splits and metrics of a job; each metric is made once, when it is first asked for."""

    def __init__(self, image_set: ImageSet, *, splits: Splits, metric: str) -> None:
        self.image_set, self.splits = image_set, splits
        self._metric = metric
        self._metrics: dict[str, LastFrameMetric] = {}

    @classmethod
    def load(
        cls,
        data: str,
        *,
        size_px: int,
        channels: int | None,
        group_by: str | None,
        strict: bool,
        metric: str,
        seed: int,
    ) -> "Material":
        """The images of `data`, split by the seed. Raises: DataError where they cannot serve."""
        image_set = load_images(data, size_px=size_px, channels=channels, group_by=group_by, strict=strict)
        return cls(image_set, splits=split_images(image_set, seed=seed), metric=metric)

    @classmethod
    def reload(cls, settings: RunSettings) -> "Material":
        """The images of a job that was started before.

        Raises:
            RunFolderError: they are no longer what they were.
        """
        material = cls.load(
            settings.data,
            size_px=settings.size_px,
            channels=settings.channels,
            group_by=settings.group_by,
            strict=False,
            metric=settings.metric,
            seed=settings.seed,
        )
        if (material.image_set.digest, material.splits.digest) != (settings.data_digest, settings.splits_digest):
            raise RunFolderError(
                f"--data {settings.data} is not what this run was started with ({settings.num_images} images then, "
                f"{len(material.image_set)} now, or other contents); numbers of different data cannot meet. "
                "Put the data back, or start a new run."
            )
        return material

    def images(self, split: str) -> Tensor:
        """The uint8 images_NCHW of one split."""
        indices: Tensor = getattr(self.splits, split)
        return self.image_set.images_NCHW[indices]

    @property
    def num_measured(self) -> int:
        """The n of every distance: what each split can serve."""
        return min(len(self.splits.train), len(self.splits.search), len(self.splits.final))

    def metric(self, split: str) -> LastFrameMetric:
        """The last-frame distance from the images of one split."""
        if split not in self._metrics:
            self._metrics[split] = make_metric(
                self._metric, self.images(split), data_digest=self.image_set.digest, num_images=self.num_measured
            )
        return self._metrics[split]

    def floor(self, split: str) -> float:
        """The distance of real training images from those of a split: what a perfect generator could reach."""
        return self.metric(split).floor_against(self.images("train"))


def absolute_source(data: str) -> str:
    """The data source such that it means the same from any folder; demo names stay as they are."""
    path = Path(data)
    return str(path.resolve()) if path.exists() else data
