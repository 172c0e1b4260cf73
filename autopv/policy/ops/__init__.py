"""The corruptions, one per file. Importing this package registers every one of them under its short name."""

from autopv.policy.ops.base import Op, get_op, op_names, register
from autopv.policy.ops.contrast import Contrast
from autopv.policy.ops.erase import Erase
from autopv.policy.ops.gaussian_blur import GaussianBlur
from autopv.policy.ops.gaussian_noise import GaussianNoise
from autopv.policy.ops.pixelate import Pixelate
from autopv.policy.ops.rotate import Rotate

__all__ = [
    "Contrast",
    "Erase",
    "GaussianBlur",
    "GaussianNoise",
    "Op",
    "Pixelate",
    "Rotate",
    "get_op",
    "op_names",
    "register",
]
