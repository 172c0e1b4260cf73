"""What ops draw today is what they drew when it was looked at: golden uint8 thumbnails, one level of tolerance."""

import numpy as np
import pytest
import torch
from make_golden import FOLDER, thumbnails
from PIL import Image

from autopv.policy.ops import op_names


@pytest.mark.parametrize("op", op_names())
def test_an_op_draws_what_it_drew_before(op: str) -> None:
    golden = np.asarray(Image.open(FOLDER / f"{op}.png")).astype(np.int16)
    now = thumbnails(op).astype(np.int16)
    assert now.shape == golden.shape
    assert int(np.abs(now - golden).max()) <= 1


def test_every_golden_picture_belongs_to_an_op() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(op_names())


def test_thumbnails_do_not_depend_on_global_randomness() -> None:
    torch.manual_seed(3)
    first = thumbnails("gaussian_noise")
    torch.manual_seed(4)
    assert np.array_equal(first, thumbnails("gaussian_noise"))
