"""What a user names on the command line -> a source of images."""

import os
from pathlib import Path

import torch

from autopv.data.arrays import SUFFIXES as ARRAY_SUFFIXES
from autopv.data.demos import demo_names
from autopv.data.images import unusable
from autopv.data.standard import StandardSet
from autopv.evaluation.file_sources import FolderSource, open_array, open_demo, open_standard_set
from autopv.evaluation.image_source import Chunk, ImageSource, TensorSource
from autopv.evaluation.model_source import ModelSource, find_model
from autopv.training.checkpoint import FILE_NAME

__all__ = ["Chunk", "FolderSource", "ImageSource", "ModelSource", "TensorSource", "open_source"]


def open_source(
    text: str, *, role: str, num_samples: int, seed: int = 0, device: torch.device | str = "cpu"
) -> ImageSource:
    """The source that `text` names: a demo or standard set, a folder, an .npy or .npz file, a checkpoint or a run.

    A set's name wins over a folder of that name (write `./elpv` for the folder), a checkpoint or a run over the images
    that lie in its folder.
    role: what the images are for, told in errors, such as "A" or "the reference".
    num_samples, seed, device: how many images are generated, with which random numbers and where; for models alone.
    Raises: DataError; CheckpointError for a damaged checkpoint.
    """
    path = Path(os.path.expanduser(text))
    if text in demo_names():
        return open_demo(text)
    standard = StandardSet.parse(text)
    if standard is not None:
        return open_standard_set(standard, label=text)
    if path.is_dir() or (path.name == FILE_NAME and path.is_file()):
        model = find_model(path)
        if model is not None:
            return ModelSource(model, label=text, num_samples=num_samples, seed=seed, device=device)
    if path.is_dir():
        return FolderSource.open(path, label=text)
    if path.is_file() and path.suffix.lower() in ARRAY_SUFFIXES:
        return open_array(path, label=text)
    rule = (
        f"{role} must be a folder of images, an .npy or .npz file, the name of a demo or a standard set, "
        "or the folder of a checkpoint or of a run"
    )
    raise unusable(text, path, rule=rule)
