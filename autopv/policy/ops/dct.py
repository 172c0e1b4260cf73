"""The orthonormal cosine transform (DCT-II) of images: its even extension is the reflecting border."""

import functools
import math
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

# A policy needs a few matrices per side and distinct step; at 256 px, 128 of them are 34 MB.
_MAX_CACHED = 128


def cached(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function, its latest results kept: for matrices that depend on sizes and magnitudes alone (a decorator)."""
    kept = functools.lru_cache(maxsize=_MAX_CACHED)(make)

    @functools.wraps(make)
    def lookup(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():  # a cache has no place in a compiled graph
            return make(*args, **kwargs)
        with torch.inference_mode(False):  # a cached tensor must serve callers inside and outside inference mode
            return kept(*args, **kwargs)  # type: ignore[arg-type]

    return lookup


@cached
def dct_matrix(size_px: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthogonal matrix (size_px, size_px) that takes a line of pixels to its cosine coefficients, lowest first."""
    return cosine_basis(size_px).to(dtype=dtype, device=device, non_blocking=True)


def cosine_basis(size_px: int) -> Tensor:
    """`dct_matrix` in float64 on the CPU."""
    position_N = torch.arange(size_px, dtype=torch.float64) + 0.5
    frequency_N = torch.arange(size_px, dtype=torch.float64)
    basis_NN = torch.cos(math.pi / size_px * frequency_N[:, None] * position_N) * math.sqrt(2 / size_px)
    basis_NN[0] /= math.sqrt(2)
    return basis_NN


def to_dct(images_BCHW: Tensor) -> Tensor:
    """The cosine coefficients of every channel; [..., 0, 0] is the mean times sqrt(H W)."""
    rows_HH, columns_WW = _matrices(images_BCHW)
    return rows_HH @ (images_BCHW @ columns_WW.T)


def from_dct(coefficients_BCHW: Tensor) -> Tensor:
    """The images of these coefficients."""
    rows_HH, columns_WW = _matrices(coefficients_BCHW)
    return rows_HH.T @ (coefficients_BCHW @ columns_WW)


def _matrices(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images_BCHW.shape[-2:]
    return tuple(dct_matrix(size, dtype=images_BCHW.dtype, device=images_BCHW.device) for size in (height, width))  # type: ignore[return-value]
