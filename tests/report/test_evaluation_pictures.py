from pathlib import Path

import numpy as np
import torch
from PIL import Image

from autopv.evaluation.evaluate import Evaluation
from autopv.report.evaluation_pictures import write_evaluation_pictures


def pairs(*sides: int, channels: int = 3) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """A dark and a light square of each side."""
    return tuple(
        (
            torch.full((channels, side, side), 40, dtype=torch.uint8),
            torch.full((channels, side, side), 200, dtype=torch.uint8),
        )
        for side in sides
    )


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_each_set_has_a_picture_where_there_is_something(tmp_path: Path) -> None:
    evaluation = Evaluation(
        record={"generated": {"a/b": {}, "c": {}, "d": {}}},
        pairs={"a/b": pairs(8, 8)},
        defects={"c": pairs(8), "a/b": ()},
    )
    written = write_evaluation_pictures(evaluation, tmp_path)
    assert [path.name for path in written] == ["pairs-1.png", "defects-2.png"]
    assert all(path.is_file() for path in written)


def test_the_generated_image_is_above_the_training_image(tmp_path: Path) -> None:
    evaluation = Evaluation(record={"generated": {"a": {}}}, pairs={"a": pairs(8, 8, 8)}, defects={})
    (path,) = write_evaluation_pictures(evaluation, tmp_path)
    picture = pixels(path)
    # The gap around tiles is white; 8 px become 96.
    assert (picture[2 : 2 + 96, -98:-2] == 40).all()
    assert (picture[100 : 100 + 96, -98:-2] == 200).all()


def test_crops_of_several_sizes_and_large_images_fit(tmp_path: Path) -> None:
    evaluation = Evaluation(record={"generated": {"a": {}}}, pairs={"a": pairs(120)}, defects={"a": pairs(5, 12, 7)})
    large, crops = write_evaluation_pictures(evaluation, tmp_path)
    assert pixels(large).shape[0] == 2 * 122 + 2
    assert pixels(crops).shape[0] == 2 * (96 + 2) + 2
