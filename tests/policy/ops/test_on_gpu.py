"""Every op on a real GPU: no wait for the device, frames as promised, and what is drawn on the CPU the same."""

import pytest
import torch

from autopv.policy import Layer, Policy
from autopv.policy.ops import get_op, op_names
from autopv.testing.op_suite import defect_masks, structured_images

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
# These draw whole fields, which are drawn on the device and repeat per kind of device only.
FIELDS = {
    "corrosion",
    "elastic",
    "gaussian_noise",
    "heat",
    "salt_and_pepper",
    "speckle",
    "spectral_mask",
    "stain",
}


@pytest.mark.parametrize("op", op_names())
def test_an_op_renders_on_a_gpu_without_waiting_for_it(op: str) -> None:
    layer = Layer(op=op, magnitude=float(get_op(op).low * get_op(op).high) ** 0.5, frames=(1, 3), probability=0.5)
    policy = Policy(num_frames=4, layers=(layer,))
    images_BCHW = structured_images((4, 3, 32, 32), seed=0)
    masks_BHW, donors = defect_masks((4, 32, 32)), structured_images((5, 3, 32, 32), seed=1)
    expected_BTCHW = policy.render(
        images_BCHW, generator=torch.Generator().manual_seed(0), masks_BHW=masks_BHW, donors=donors
    )
    beside = {"masks_BHW": masks_BHW.cuda(), "donors": donors.cuda()}
    on_gpu_BCHW = images_BCHW.cuda()
    policy.render(on_gpu_BCHW, generator=torch.Generator().manual_seed(0), **beside)  # fills the caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        frames_BTCHW = policy.render(on_gpu_BCHW, generator=torch.Generator().manual_seed(0), **beside)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(frames_BTCHW[:, -1], on_gpu_BCHW)
    assert bool(torch.isfinite(frames_BTCHW).all())
    if op not in FIELDS:
        torch.testing.assert_close(frames_BTCHW.cpu(), expected_BTCHW, atol=1e-3, rtol=0)


def test_half_precision_renders_on_a_gpu() -> None:
    layer = Layer(op="gaussian_blur", magnitude=0.05, frames=(1, 3))
    images_BCHW = structured_images((4, 3, 32, 32), seed=0).cuda().bfloat16()
    frames_BTCHW = Policy(num_frames=4, layers=(layer,)).render(images_BCHW, generator=torch.Generator())
    assert frames_BTCHW.dtype == torch.bfloat16
    assert torch.equal(frames_BTCHW[:, -1], images_BCHW)
