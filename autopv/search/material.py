"""The images of a run, loaded again and checked to be what they were."""

from pathlib import Path

from autopv.data.demos import demo_names
from autopv.data.standard import StandardSet
from autopv.errors import RunFolderError
from autopv.search.run_folder import RunSettings
from autopv.training.material import Material, Setup


def reload_material(settings: RunSettings) -> Material:
    """The images that a run was started with.

    Raises:
        RunFolderError: they are no longer what they were.
    """
    material = Material.load(
        Setup(
            data=settings.data,
            size_px=settings.size_px,
            channels=settings.channels,
            group_by=settings.group_by,
            model=settings.model,
            classes=settings.classes,
            preset=settings.preset,
            metric=settings.metric,
            seed=settings.seed,
        )
    )
    if (material.image_set.digest, material.splits.digest) != (settings.data_digest, settings.splits_digest):
        raise RunFolderError(
            f"--data {settings.data} is not what this run was started with ({settings.num_images} images then, "
            f"{len(material.image_set)} now, or other contents); numbers of different data cannot meet. "
            "Put the data back, or start a new run."
        )
    return material


def absolute_source(data: str) -> str:
    """The data source such that it means the same from any folder; the names of sets stay as they are."""
    if data in demo_names():
        return data
    standard = StandardSet.parse(data)
    if standard is not None:
        return str(standard.absolute())
    path = Path(data)
    return str(path.resolve()) if path.exists() else data
