"""A policy as a transform of torchvision: it stands in a pipeline (v2.Compose) like any other.

The one module of this part that imports torchvision, which takes seconds: `autopv.policy` itself does not import it.
"""

from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from autopv.errors import PolicyError
from autopv.policy.policy import Policy

_PIL_MODES = ("L", "LA", "RGB", "RGBA")
_RINGING = 0.25
"""How far beyond [0, 1] a float image may reach: sharp resizing overshoots, while a normalised image goes further."""


class PseudoVideo(v2.Transform):
    """Makes pseudo videos of the images in a sample, whatever else it holds and however it is nested.

    An image (C, H, W) becomes a tv_tensors.Video (T, C, H, W), a batch (B, C, H, W) one of (B, T, C, H, W) with draws
    of its own for every image; the last frame is the image, bit for bit. Images are what torchvision takes for them:
    tv_tensors.Image and PIL images, or else the sample's first plain tensor. uint8 and PIL give uint8 (rounded), float
    in [0, 1] gives float of the same precision. Everything else passes through.

    A tv_tensors.Mask in the sample tells policies that need it where the defect is (non-zero; several masks of one
    image are united). All images of one sample share the mask and, where their shapes are equal, the draw.
    Randomness comes from torch's global generator, as in torchvision: `torch.manual_seed` repeats it, and the workers
    of a DataLoader differ.

    >>> policy = Policy.parse("T=4 order=1 fresh weight=0.1: gaussian_blur sigma=0.06 linear 1-3")
    >>> to_video = v2.Compose([v2.RandomHorizontalFlip(), PseudoVideo(policy)])
    >>> frames_TCHW, label = to_video(torch.rand(3, 32, 32), 7)
    >>> frames_TCHW.shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(self, policy: Policy | str | Path, *, donors: Tensor | None = None) -> None:
        """A transform by this policy, or by the one in this file.

        donors: a bank of other images (N, C, H, W) of the samples' size, uint8 or float in [0, 1], for policies that
        need one. Raises: PolicyError where the file is no policy, or donors are needed and not given, or are no images.
        """
        super().__init__()
        self.policy = policy if isinstance(policy, Policy) else Policy.load(policy)
        if donors is None and "donors" in self.policy.needs:
            raise PolicyError(f"the policy needs other images to take from (donors=): {self.policy.describe()}")
        if donors is not None and (donors.ndim != 4 or not _is_image_dtype(donors) or len(donors) == 0):
            raise PolicyError(
                "donors must be images (N, C, H, W), N >= 1, uint8 or float, got "
                f"{donors.dtype} of {tuple(donors.shape)}"
            )
        self.register_buffer("donors", None if donors is None else _as_float(donors), persistent=False)

    def extra_repr(self) -> str:
        """The policy in one line."""
        return self.policy.describe()

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """A seed for the sample's videos, and the defect mask if the policy needs it."""
        if not any(_is_image(entry) for entry in flat_inputs):
            raise PolicyError("the sample must hold an image (a tensor, tv_tensors.Image or PIL image), but has none")
        mask = None
        if "masks" in self.policy.needs:
            masks = [entry for entry in flat_inputs if isinstance(entry, tv_tensors.Mask)]
            if len(masks) != 1:
                raise PolicyError(
                    "the policy needs to know where the defects are: the sample must hold one tv_tensors.Mask beside "
                    f"the image, but has {len(masks)}; the policy is {self.policy.describe()}"
                )
            mask = masks[0].as_subclass(Tensor)
        return {"seed": int(torch.randint(2**62, (), device="cpu")), "mask": mask}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The video of an image; anything else itself."""
        if not _is_image(inpt):
            return inpt
        image = _as_tensor(inpt)
        images_BCHW = image if image.ndim == 4 else image[None]
        donors: Tensor | None = self.donors
        frames_BTCHW = self.policy.render(
            _as_float(images_BCHW),
            generator=torch.Generator().manual_seed(params["seed"]),
            masks_BHW=None if params["mask"] is None else _defects(params["mask"], image),
            donors=None if donors is None else donors.to(image.device),
        )
        if image.dtype == torch.uint8:
            frames_BTCHW = (frames_BTCHW * 255).round_().to(torch.uint8)
        return tv_tensors.Video(frames_BTCHW if image.ndim == 4 else frames_BTCHW[0])


def _is_image(entry: Any) -> bool:
    return isinstance(entry, tv_tensors.Image | PIL.Image.Image) or functional.is_pure_tensor(entry)


def _as_tensor(image: Any) -> Tensor:
    """The image as a plain tensor (C, H, W) or (B, C, H, W). Raises: PolicyError where it is none to corrupt."""
    if isinstance(image, PIL.Image.Image):
        if image.mode not in _PIL_MODES:
            raise PolicyError(
                f"PIL images must be of the modes {', '.join(_PIL_MODES)}, got {image.mode}; convert them first, e.g. "
                'with v2.RGB() or image.convert("L")'
            )
        return functional.pil_to_tensor(image)  # type: ignore[no-any-return]
    tensor: Tensor = image.as_subclass(Tensor).detach()
    if tensor.ndim not in (3, 4) or not _is_image_dtype(tensor):
        raise PolicyError(
            "images must be uint8 or float tensors (C, H, W), or (B, C, H, W) for a batch, got "
            f"{tensor.dtype} of {tuple(tensor.shape)}"
        )
    # Elsewhere than on the CPU a look at the values would wait for the device.
    if tensor.is_floating_point() and tensor.device.type == "cpu" and tensor.numel():
        low, high = (float(value) for value in tensor.aminmax())
        if not (low >= -_RINGING and high <= 1 + _RINGING):
            raise PolicyError(
                f"float images must lie in [0, 1], got values from {low:g} to {high:g}; put PseudoVideo before "
                "v2.Normalize, and v2.ToDtype(torch.float32, scale=True) before both"
            )
    return tensor


def _is_image_dtype(tensor: Tensor) -> bool:
    return tensor.dtype == torch.uint8 or tensor.is_floating_point()


def _as_float(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images


def _defects(mask: Tensor, image: Tensor) -> Tensor:
    """The mask as masks_BHW (bool). Raises: PolicyError where it is not of the image's size and number."""
    sizes = (*image.shape[:-3], *image.shape[-2:])
    mask = mask != 0
    if mask.ndim == len(sizes) + 1:  # several of one image, or one with a channel
        mask = mask.any(dim=-3)
    if mask.shape != sizes:
        raise PolicyError(f"a mask must be of its image's size {sizes}, got one of {tuple(mask.shape)}")
    return mask if image.ndim == 4 else mask[None]
