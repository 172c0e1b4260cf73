"""What an image's pixels are, given a decoder's state: the likelihoods a family can choose from.

Each turns `num_outputs` numbers per pixel into the negative log-likelihood of an image (nats per channel value) and
into a drawn image; images are in [-1, 1].
"""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The likelihood scale is not worth learning below half a step of 8-bit pixels in [-1, 1]: finer detail is rounding.
MIN_LOG_SCALE = math.log(1 / 255)
# Where a scale starts: the spread of a badly predicted image.
INITIAL_LOG_SCALE = -1.0
# Adam moves a parameter by about the learning rate per step; the scale has to fall by several units within a brief
# training, so it is stored divided by this.
SCALE_GAIN = 10.0
# Sharper logistics than this cannot be told apart by 8-bit values (PixelCNN++ uses the same bound).
_MIN_LOGISTIC_LOG_SCALE = -7.0
_HALF_BIN = 1 / 255
_TINY = 1e-12


class Likelihood(nn.Module, ABC):
    """A distribution over images of `channels` channels, given `num_outputs` numbers for each pixel."""

    num_outputs: int

    @abstractmethod
    def score(self, outputs_BOHW: Tensor, target_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean negative log-likelihood in nats per channel value, mean squared error of the mean, log of the scale.

        The scale is the spread that the likelihood allows the last frame; other frames are held to it.
        """

    @abstractmethod
    def draw(self, outputs_BOHW: Tensor, uniforms_BUHW: Tensor) -> Tensor:
        """Images_BCHW; `uniforms` in (0, 1) decide whatever the likelihood leaves to chance."""

    @property
    @abstractmethod
    def num_uniforms(self) -> int:
        """Uniform numbers that `draw` takes for each pixel."""


class Gaussian(Likelihood):
    """A Gaussian of one learned scale around the outputs; its mean is drawn, as is usual for a smooth decoder.

    Source: Rybkin et al., arXiv 2006.13202 (sigma-VAE); the scale is a parameter here rather than computed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_outputs = channels
        self.scaled_log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE / SCALE_GAIN))

    @property
    def log_scale(self) -> Tensor:
        """Log of the scale, images in [-1, 1]."""
        return (SCALE_GAIN * self.scaled_log_scale).clamp(min=MIN_LOG_SCALE)

    def score(self, outputs_BOHW: Tensor, target_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        error = F.mse_loss(outputs_BOHW, target_BCHW)
        log_scale = self.log_scale
        return 0.5 * error * torch.exp(-2 * log_scale) + log_scale, error, log_scale

    def draw(self, outputs_BOHW: Tensor, uniforms_BUHW: Tensor) -> Tensor:  # noqa: ARG002 - nothing is left to chance
        return outputs_BOHW

    @property
    def num_uniforms(self) -> int:
        return 0


class LogisticMixture(Likelihood):
    """A mixture of logistics discretised to 8-bit values; later channels shift with the earlier ones of their pixel.

    Source: Salimans et al., arXiv 1701.05517 (PixelCNN++), section 2.1 and 2.2, as VDVAE uses it; for any number of
    channels here. The error of the mean and the scale are those of the mixture's mean.
    """

    def __init__(self, channels: int, *, num_components: int = 5) -> None:
        super().__init__()
        self.channels, self.num_components = channels, num_components
        self.num_pairs = channels * (channels - 1) // 2
        # One weight, then mean and log scale per channel and a slope per pair of channels, for each component.
        self.num_outputs = num_components * (1 + 2 * channels + self.num_pairs)

    def score(self, outputs_BOHW: Tensor, target_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_weights, means, log_scales, slopes = self._parts(outputs_BOHW)
        target = target_BCHW[:, None]
        shifted = torch.stack(
            [means[:, :, c] + self._shift(slopes, target_BCHW, channel=c) for c in range(self.channels)], 2
        )
        centred = (target - shifted) * torch.exp(-log_scales)
        step = _HALF_BIN * torch.exp(-log_scales)
        upper, lower = centred + step, centred - step
        # The probability of a bin; where it underflows, the density at its middle times its width.
        inside = (torch.sigmoid(upper) - torch.sigmoid(lower)).clamp(min=_TINY).log()
        density = centred - log_scales - 2 * F.softplus(centred) + math.log(2 * _HALF_BIN)
        middle = torch.where(inside > math.log(1e-5), inside, density)
        # The outermost bins reach to infinity.
        log_prob = torch.where(
            target < -0.999, F.logsigmoid(upper), torch.where(target > 0.999, -F.softplus(lower), middle)
        )
        per_pixel = torch.logsumexp(log_weights + log_prob.sum(2), 1)
        mean = (log_weights.exp()[:, :, None] * shifted).sum(1)
        error = F.mse_loss(mean, target_BCHW)
        return (
            -per_pixel.mean() / self.channels,
            error,
            0.5 * error.detach().clamp(min=math.exp(2 * MIN_LOG_SCALE)).log(),
        )

    def draw(self, outputs_BOHW: Tensor, uniforms_BUHW: Tensor) -> Tensor:
        log_weights, means, log_scales, slopes = self._parts(outputs_BOHW)
        # Inverse distribution functions: of the components' weights, then of the chosen logistics.
        chosen = (log_weights.exp().cumsum(1) < uniforms_BUHW[:, :1]).sum(1, keepdim=True)
        chosen = chosen.clamp(max=self.num_components - 1)[:, :, None]
        means, log_scales = (_pick(part, chosen) for part in (means, log_scales))
        slopes = _pick(slopes, chosen) if self.num_pairs else slopes[:, 0]
        noise = torch.logit(uniforms_BUHW[:, 1:], eps=1e-5)
        image = means.new_zeros(means.shape)
        for c in range(self.channels):
            shift = self._shift(slopes[:, None], image, channel=c)[:, 0]
            image[:, c] = (means[:, c] + shift + log_scales[:, c].exp() * noise[:, c]).clamp(-1, 1)
        return image

    @property
    def num_uniforms(self) -> int:
        return 1 + self.channels

    def _parts(self, outputs_BOHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log weights_BKHW; means, log scales (B, K, C, H, W); slopes (B, K, pairs, H, W)."""
        k, c = self.num_components, self.channels
        outputs = outputs_BOHW.view(len(outputs_BOHW), k, -1, *outputs_BOHW.shape[2:])
        log_scales = (outputs[:, :, 1 + c : 1 + 2 * c] + INITIAL_LOG_SCALE).clamp(min=_MIN_LOGISTIC_LOG_SCALE)
        # Components that start equal would learn alike: they start spread over the range.
        spread = torch.linspace(-1, 1, k + 2, device=outputs.device)[1:-1].view(1, k, 1, 1, 1)
        means = outputs[:, :, 1 : 1 + c] + spread
        return outputs[:, :, 0].log_softmax(1), means, log_scales, outputs[:, :, 1 + 2 * c :].tanh()

    def _shift(self, slopes: Tensor, image_BCHW: Tensor, *, channel: int) -> Tensor:
        """What the earlier channels add to the means (B, K, H, W) of one channel."""
        first = channel * (channel - 1) // 2
        return (slopes[:, :, first : first + channel] * image_BCHW[:, None, :channel]).sum(2)


def _pick(parts: Tensor, chosen: Tensor) -> Tensor:
    """Of (B, K, C, H, W), the chosen (B, 1, 1, H, W) component: (B, C, H, W)."""
    return parts.gather(1, chosen.expand(-1, 1, parts.shape[2], -1, -1))[:, 0]


def pseudo_frame_score(error: Tensor, *, log_scale: Tensor) -> Tensor:
    """What a pseudo frame's mean squared error costs at weight 1: as much as the same error of the image.

    log_scale: of the image's likelihood, as `score` tells it; pseudo frames are held to it and do not move it.
    """
    return 0.5 * torch.exp(-2 * log_scale.detach()) * error


_LIKELIHOODS: dict[str, type[Gaussian] | type[LogisticMixture]] = {
    "gaussian": Gaussian,
    "logistic_mixture": LogisticMixture,
}


def build_likelihood(name: str, *, channels: int) -> Likelihood:
    """The likelihood of that name, fresh."""
    return _LIKELIHOODS[name](channels)
