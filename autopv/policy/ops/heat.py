"""Heat diffusion with a little noise, as in inverse heat dissipation models."""

import math

import torch
from torch import Tensor

from autopv.policy.ops.base import REFERENCE_SIDE_PX, Draw, Op, register, variance_step
from autopv.policy.ops.dct import cached, from_dct, to_dct
from autopv.policy.ops.fields import normal_field

NOISE_PER_BLUR = 0.1
"""Standard deviation of the noise at 64 px over that of the blur: the paper's 0.01 where the blur is 0.1."""


@register
class Heat(Op):
    """Gaussian blur, and white noise that grows with it: what the blur hides is drowned instead of merely small.

    Every cosine frequency is damped as by gaussian_blur. A step from s to t damps the noise of the source too, and
    adds to every frequency what white noise of the target then lacks, so steps compose exactly.
    The noise is stated at 64 px and scales with side / 64, like gaussian_noise.
    Source: Rissanen et al. 2022, "Generative modelling with inverse heat dissipation", section 3. There the noise is
    the same at every time; here it grows from 0, so that the last frame is the image.
    """

    name = "heat"
    magnitude_name = "sigma"
    unit = "standard deviation of the blur, as a fraction of the shorter side; the noise's is a tenth of the number"
    low = 0.002
    high = 0.5
    deterministic = False
    exact = True
    monotone = True
    group = "blur"
    built_on = "torch: neither kornia nor torchvision composes blur and noise exactly"

    def draw(self, shape_BCHW: tuple[int, int, int, int], *, generator: torch.Generator, device: torch.device) -> Draw:
        """A standard normal value per cosine frequency."""
        return {"spectrum_BCHW": normal_field(shape_BCHW, generator=generator, device=device)}

    def corrupt(self, images_BCHW: Tensor, draw: Draw, *, source: float, target: float) -> Tensor:
        """The images, blurred by the variance that is missing, and noisy like the target."""
        if target == source:
            return images_BCHW
        height, width = images_BCHW.shape[-2:]
        damping_HW, noise_HW = heat_step(
            height, width, source=source, target=target, dtype=images_BCHW.dtype, device=images_BCHW.device
        )
        damped_BCHW = to_dct(images_BCHW).mul_(damping_HW)
        return from_dct(damped_BCHW.addcmul_(draw["spectrum_BCHW"].to(images_BCHW.dtype), noise_HW))


@cached
def heat_step(
    height: int, width: int, *, source: float, target: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What a step does to every cosine frequency, (2, height, width): its factor, and its noise's deviation."""
    side_px = min(height, width)
    rows_H, columns_W = (torch.arange(size, dtype=torch.float64) / size for size in (height, width))
    frequency_HW = torch.hypot(rows_H[:, None], columns_W)
    damping_HW = torch.exp(-0.5 * (variance_step(source, target) * side_px * math.pi * frequency_HW).square())
    scale = NOISE_PER_BLUR * side_px / REFERENCE_SIDE_PX
    noise_HW = (target**2 - (source * damping_HW).square()).clamp(min=0).sqrt() * scale
    return torch.stack((damping_HW, noise_HW)).to(dtype=dtype, device=device, non_blocking=True)
