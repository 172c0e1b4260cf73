"""The same steps written with kornia's augmentation classes and with torchvision's v2 transforms, where they have them.

A rival makes a video as autopv's first-order chain does: each frame by one step of every layer from the frame before.
Freedom is equal: what autopv draws per image is drawn per image here too. torchvision draws one parameter for a whole
batch, so its random transforms are applied image by image; what is alike for all images is applied to the batch.
"""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from autopv.policy import Policy
from autopv.policy.ops.base import variance_step

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kornia's import warns
    import kornia.augmentation as K

import torchvision.transforms.v2 as V

Step = Callable[[Tensor], Tensor]
SIDE_PX = 64
KORNIA_OPS = (
    "brightness",
    "contrast",
    "elastic",
    "erase",
    "gamma",
    "gaussian_blur",
    "gaussian_noise",
    "jpeg",
    "median",
    "motion_blur",
    "perspective",
    "rotate",
    "salt_and_pepper",
    "translate",
    "zoom",
)


def kornia_step(op: str, *, source: float, target: float) -> Step | None:
    """One step by kornia, or None where it has no such op."""
    step, size = target - source, variance_step(source, target)
    makers: dict[str, Callable[[], Step]] = {
        "gaussian_noise": lambda: K.RandomGaussianNoise(std=size, p=1.0),
        "gaussian_blur": lambda: K.RandomGaussianBlur(*_kernel(size), p=1.0),
        "salt_and_pepper": lambda: K.RandomSaltAndPepperNoise(amount=(step, step), p=1.0),
        "jpeg": lambda: K.RandomJPEG((_quality(target), _quality(target)), p=1.0),
        "motion_blur": lambda: K.RandomMotionBlur(_odd(step * SIDE_PX), angle=180.0, direction=0.0, p=1.0),
        "median": lambda: K.RandomMedianBlur((3, 3), p=1.0),
        "rotate": lambda: K.RandomRotation(size, p=1.0),
        "translate": lambda: K.RandomTranslate((-size, size), (-size, size), p=1.0),
        "zoom": lambda: K.RandomAffine(0.0, scale=(math.exp(-size), math.exp(size)), p=1.0),
        "perspective": lambda: K.RandomPerspective(min(size, 0.9), p=1.0),
        "elastic": lambda: K.RandomElasticTransform((15, 15), (4.0, 4.0), (size, size), p=1.0),
        "erase": lambda: K.RandomErasing(scale=(step, step), ratio=(0.5, 2.0), p=1.0),
        "brightness": lambda: K.RandomBrightness((max(0.0, 1 - size), 1 + size), p=1.0),
        "contrast": lambda: K.RandomContrast((1 - step, 1 - step), p=1.0),
        "gamma": lambda: K.RandomGamma((math.exp(-size), math.exp(size)), p=1.0),
    }
    return makers[op]() if op in makers else None


def torchvision_step(op: str, *, source: float, target: float) -> Step | None:
    """One step by torchvision v2, or None where it has no such op."""
    step, size = target - source, variance_step(source, target)
    makers: dict[str, Callable[[], Step]] = {
        "gaussian_noise": lambda: V.GaussianNoise(sigma=size, clip=False),
        "gaussian_blur": lambda: V.GaussianBlur(*_kernel(size)),
        "jpeg": lambda: _jpeg(_quality(target)),
        "rotate": lambda: _each(V.RandomRotation(size, interpolation=V.InterpolationMode.BILINEAR)),
        "translate": lambda: _each(_affine(translate=(size, size))),
        "zoom": lambda: _each(_affine(scale=(math.exp(-size), math.exp(size)))),
        "perspective": lambda: _each(V.RandomPerspective(min(size, 0.9), p=1.0)),
        "elastic": lambda: _each(V.ElasticTransform(alpha=size * SIDE_PX, sigma=4.0)),
        "erase": lambda: _each(V.RandomErasing(p=1.0, scale=(step, step), ratio=(0.5, 2.0))),
        "brightness": lambda: _each(V.ColorJitter(brightness=size)),
        "contrast": lambda: lambda images: V.functional.adjust_contrast(images, 1 - step),
        "gamma": lambda: _each(lambda image: V.functional.adjust_gamma(image, _exp_normal(size))),
    }
    return makers[op]() if op in makers else None


def rival(policy: Policy, make_step: Callable[..., Step | None]) -> tuple[Callable[[Tensor], Tensor], list[str]]:
    """The function that makes the policy's videos by a rival's steps, and the ops it has no step for."""
    if policy.markov_order != 1:
        raise ValueError(f"rivals make first-order chains, got order {policy.markov_order}")
    frames: list[list[Step]] = []
    for frame in range(policy.num_frames - 1, 0, -1):
        ends = [(layer.op, layer.magnitude_at(frame + 1), layer.magnitude_at(frame)) for layer in policy.layers]
        steps = [make_step(op, source=source, target=target) for op, source, target in ends]
        frames.append([step for step in steps if step is not None])
    missing = [layer.op for layer in policy.layers if make_step(layer.op, source=0.0, target=layer.magnitude) is None]

    def render(images_BCHW: Tensor) -> Tensor:
        video = [images_BCHW]
        for steps in frames:
            current_BCHW = video[-1]
            for step in steps:
                current_BCHW = step(current_BCHW)
            video.append(current_BCHW)
        return torch.stack([video[0], *(frame.clamp(0, 1) for frame in video[1:])][::-1], dim=1)

    return render, missing


def _kernel(sigma: float) -> tuple[tuple[int, int], tuple[float, float]]:
    """A kernel of three standard deviations to either side, and its standard deviation in pixels."""
    sigma_px = sigma * SIDE_PX
    side = 2 * math.ceil(3 * sigma_px) + 1
    return (side, side), (sigma_px, sigma_px)


def _odd(length_px: float) -> int:
    return max(3, 2 * round(length_px / 2) + 1)


def _quality(loss: float) -> int:
    return max(1, round(100 * (1 - loss)))


def _exp_normal(size: float) -> float:
    return math.exp(size * float(torch.randn(())))


def _affine(**options: object) -> Step:
    return V.RandomAffine(0, interpolation=V.InterpolationMode.BILINEAR, **options)  # type: ignore[arg-type]


def _jpeg(quality: int) -> Step:
    transform = V.JPEG(quality)
    return lambda images: transform((images * 255).round().clamp(0, 255).to(torch.uint8)).float() / 255


def _each(step: Step) -> Step:
    return lambda images: torch.stack([step(image) for image in images])
