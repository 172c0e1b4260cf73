"""Labels of images as a condition of a model: checked, drawn where none are given, and embedded."""

import torch
from torch import Tensor, nn

from autopv.errors import ModelError

UNLABELLED = -1
"""The label of an image whose class is not known."""


class ClassEmbedding(nn.Module):
    """labels_B -> features (B, width), of spread `initial_sd` before training; nothing for an unlabelled image."""

    def __init__(self, num_classes: int, *, width: int, initial_sd: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, width))
        if initial_sd > 0:
            nn.init.normal_(self.weight, std=initial_sd)

    def forward(self, labels_B: Tensor) -> Tensor:
        # A product rather than a look-up: it has no row for -1, and its gradient repeats to the bit on every device.
        classes_K = torch.arange(len(self.weight), device=labels_B.device)
        return (labels_B[:, None] == classes_K).to(self.weight.dtype) @ self.weight

    def flops(self) -> float:
        """Of one image: multiply-adds count twice."""
        return 2.0 * self.weight.numel()


def check_labels(labels: Tensor, *, num_images: int, num_classes: int) -> None:
    """Nothing, if these are the classes of so many images.

    Raises:
        ModelError: another type or shape, or a label that is no class.
    """
    if labels.dtype != torch.int64 or tuple(labels.shape) != (num_images,):
        raise ModelError(
            f"labels must be int64, one per image, shape ({num_images},), but got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if num_images == 0:
        return
    low, high = (int(bound) for bound in labels.aminmax())
    if not UNLABELLED <= low <= high < num_classes:
        raise ModelError(
            f"labels must be from 0 to {num_classes - 1}, or {UNLABELLED} for an image whose class is not known, but "
            f"got {low if low < UNLABELLED else high}"
        )


def draw_labels(counts: Tensor, num_images: int, *, generator: torch.Generator) -> Tensor:
    """labels_B in random order, each as often as its share of the counts; the last count is of unlabelled images.

    As even as so many images can be: the mixture of a set of samples then varies no more than it must, as that of the
    splits of the data does not.
    """
    bounds = counts.double().cumsum(0)
    offset = torch.rand((), generator=generator, device=counts.device, dtype=torch.float64)
    places_B = (torch.arange(num_images, device=counts.device) + offset) / num_images * bounds[-1]
    labels_B = torch.searchsorted(bounds, places_B, right=True)
    # Rounding may carry the last place onto the end, which belongs to nobody.
    labels_B = labels_B.clamp(max=int(counts.nonzero().max()))
    labels_B = torch.where(labels_B == len(counts) - 1, UNLABELLED, labels_B)
    return labels_B[torch.randperm(num_images, generator=generator, device=counts.device)]
