"""Golden thumbnails of every op: `python tests/policy/ops/make_golden.py [OP ...]` writes those that are missing.

One that should change is deleted first, looked at when it is made anew, and committed with the reason for the change.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autopv.data.pictures import image_grid, save_png
from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op, op_names
from autopv.testing.op_suite import defect_masks, structured_images

FOLDER = Path(__file__).parent / "golden"
SIDE_PX = 24


def thumbnails(op: str) -> NDArray[np.uint8]:
    """A picture of two videos by a chain of fresh draws above the same by one shared draw, image on the right."""
    images_BCHW = structured_images((2, 3, SIDE_PX, SIDE_PX), seed=5)
    rows = []
    for order, randomness in ((1, "fresh"), (3, "shared")):
        magnitude = float(get_op(op).low ** 0.3 * get_op(op).high ** 0.7)
        layer = Layer(op=op, magnitude=magnitude, frames=(1, 3))
        policy = Policy(num_frames=4, markov_order=order, randomness=randomness, layers=(layer,))
        frames_BTCHW = policy.render(
            images_BCHW,
            generator=torch.Generator().manual_seed(1),
            masks_BHW=defect_masks((2, SIDE_PX, SIDE_PX)),
            donors=structured_images((5, 3, SIDE_PX, SIDE_PX), seed=6),
        )
        rows.append(frames_BTCHW.flatten(0, 1))
    return image_grid(torch.cat(rows), columns=4, gap=1)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for op in sys.argv[1:] or op_names():
        if not (FOLDER / f"{op}.png").exists():
            save_png(FOLDER / f"{op}.png", thumbnails(op))
