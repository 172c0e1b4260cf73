"""Small sources, and their features by a stand-in extractor."""

from pathlib import Path

import torch
from source_cases import StandInExtractor, random_images, write_images

from autopv.evaluation.feature_set import FeatureSet
from autopv.evaluation.feature_store import extract
from autopv.evaluation.sources import FolderSource, ImageSource, TensorSource
from autopv.metrics.features import Extractor

SIZE_PX = 8


def tensors(count: int = 20, *, seed: int = 0) -> TensorSource:
    return TensorSource(random_images(count, seed=seed), label="tensors")


def extracted(source: ImageSource, extractor: Extractor | None = None, *, cache: Path | None = None) -> FeatureSet:
    return extract(source, extractor or StandInExtractor(), size_px=SIZE_PX, cache=cache)


def all_rows(feature_set: FeatureSet) -> torch.Tensor:
    return torch.cat(list(feature_set.shards()))


def num_seen(source: ImageSource, *, cache: Path | None) -> int:
    extractor = StandInExtractor()
    extracted(source, extractor, cache=cache)
    return extractor.num_seen


def folder_source(folder: Path, *, count: int = 14) -> FolderSource:
    write_images(folder, [f"{index:02d}.png" for index in range(count)])
    return FolderSource.open(folder, label="folder")
