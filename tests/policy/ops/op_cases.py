"""One step of an op, for the tests that compare it with a closed form."""

import torch
from torch import Tensor

from autopv.policy.ops import get_op
from autopv.policy.ops.base import Draw

CPU = torch.device("cpu")


def step(op: str, images_BCHW: Tensor, *, target: float, source: float = 0.0, draw: Draw | None = None) -> Tensor:
    if draw is None:
        shape_BCHW = tuple(images_BCHW.shape)
        draw = get_op(op).draw(shape_BCHW, generator=torch.Generator().manual_seed(0), device=CPU)
    return get_op(op).corrupt(images_BCHW, draw, source=source, target=target)
