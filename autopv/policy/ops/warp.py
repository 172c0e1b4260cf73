"""Reading images at other places: what the geometric ops share.

Places are counted as grid_sample counts them, in halves of each side from the centre: an image's borders are at -1
and 1, whatever its size. Their coordinates lie in planes (B, 2, H, W), columns first: adding and scaling them is many
times faster than in pairs (B, H, W, 2), and grid_sample reads either layout at the same speed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def centres(size_px: int, *, like: Tensor) -> Tensor:
    """Where the pixels of a line of that many lie, from just above -1 to just below 1; dtype and device of `like`."""
    return (2 * torch.arange(size_px, dtype=like.dtype, device=like.device) + 1) / size_px - 1


def pixel_places(images_BCHW: Tensor) -> Tensor:
    """Where the images' pixels lie, (2, H, W)."""
    height, width = images_BCHW.shape[-2:]
    columns_HW = centres(width, like=images_BCHW).expand(height, width)
    rows_HW = centres(height, like=images_BCHW)[:, None].expand(height, width)
    return torch.stack((columns_HW, rows_HW))


def read_at(images_BCHW: Tensor, places_B2HW: Tensor, *, inside: bool = False) -> Tensor:
    """The images, bilinear between pixels; beyond a border lies their reflection (the border pixel is repeated).

    `inside` says that no place lies beyond a border, which saves a quarter of the time on a CPU.
    """
    padding = "border" if inside else "reflection"
    grid_BHW2 = places_B2HW.permute(0, 2, 3, 1)
    return F.grid_sample(images_BCHW, grid_BHW2, mode="bilinear", padding_mode=padding, align_corners=False)


def folded(places: Tensor) -> Tensor:
    """The places inside the image whose pixels a reflecting border shows at these."""
    return (torch.remainder(places + 1, 4) - 2).abs().neg() + 1
