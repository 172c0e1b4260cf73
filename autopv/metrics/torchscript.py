"""TorchScript modules, loaded from bytes."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from autopv.errors import MetricError


def load_torchscript(content: bytes, *, where: str) -> nn.Module:
    """The network in the content of a TorchScript file, on the CPU, ready for inference.

    TorchScript is a program: load only what came from a trusted place (autopv.metrics.private_files).
    Raises: MetricError for content that is something else, named by `where`.
    """
    try:
        with _without_deprecations():
            network: nn.Module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise MetricError(
            f"{where} must be a TorchScript file, as `torch.jit.save` writes it (not a state dict, nor a pickled "
            f"model), but torch cannot read it: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()


def freeze_torchscript(network: nn.Module) -> nn.Module:
    """The same function with its weights as constants and its batch norms folded, on the device of the network."""
    with _without_deprecations():
        frozen: nn.Module = torch.jit.freeze(network)
    return frozen


@contextmanager
def _without_deprecations() -> Iterator[None]:
    # The format is deprecated, yet the official FID network exists in no other.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=FutureWarning)
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        yield
