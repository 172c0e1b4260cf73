"""A change of scale about the centre."""

import torch
from torch import Tensor

from autopv.policy.ops.base import Draw, Op, register, variance_step


@register
class Zoom(Op):
    """Each image enlarged or reduced about its centre by a log-normal factor; beyond the border it is reflected.

    Bilinear where it enlarges; where it reduces, the triangular kernel widens with the step between samples, so that
    fine texture fades instead of turning into moire (the antialiasing of PIL and of F.interpolate).
    Variances of log-scales add, but every step resamples and reflects anew: approximate.
    """

    name = "zoom"
    magnitude_name = "log_scale"
    unit = "standard deviation of the natural logarithm of the scale"
    low = 0.002
    high = 0.6
    deterministic = False
    exact = False
    monotone = True
    group = "geometry"
    built_on = "torch: kornia's per-sample scale aliases and takes half as long again, torchvision scales all alike"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """The logarithm of each image's scale, in standard deviations."""
        return {"log_scale_B": torch.randn(shape_BCHW[0], generator=generator).to(device, non_blocking=True)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images at their scales: one matrix product along the rows and one along the columns."""
        if target == source:
            return images_BCHW
        batch, channels, height, width = images_BCHW.shape
        step_px_B = (draw["log_scale_B"].to(images_BCHW.dtype) * -variance_step(source, target)).exp()
        columns_BWW = _resampling(step_px_B, size_px=width).transpose(1, 2)
        rows_BHH = columns_BWW.transpose(1, 2) if height == width else _resampling(step_px_B, size_px=height)
        lines_BNW = images_BCHW.reshape(batch, channels * height, width) @ columns_BWW
        return rows_BHH[:, None] @ lines_BNW.reshape(batch, channels, height, width)


def _resampling(step_px_B: Tensor, *, size_px: int) -> Tensor:
    """The matrices (B, size_px to, size_px from) that read a line of pixels at steps of so many pixels."""
    pixel_N = torch.arange(size_px, dtype=step_px_B.dtype, device=step_px_B.device)
    place_BN = (pixel_N - (size_px - 1) / 2) * step_px_B[:, None] + size_px / 2
    # Folded into the line, [0, size_px]: with its reflection it has the period 2 size_px.
    folded_BN1 = (size_px - (torch.remainder(place_BN, 2 * size_px) - size_px).abs())[:, :, None]
    centre_N = pixel_N + 0.5
    width_B11 = step_px_B.clamp(min=1)[:, None, None]
    weight_BNN = (width_B11 - (folded_BN1 - centre_N).abs_()).clamp_(min=0)
    # The nearest of a pixel's mirror images lies size_px - |size_px - folded - centre| away. Only kernels wider than
    # the line would reach further ones; those are cut off there, which the sum makes up for.
    mirrored_BNN = (size_px - folded_BN1 - centre_N).abs_().add_(width_B11 - size_px).clamp_(min=0)
    weight_BNN += mirrored_BNN
    return weight_BNN.div_(weight_BNN.sum(dim=2, keepdim=True))
