"""The pictures of a page, as data URIs: samples beside real images, and the pseudo videos of a policy."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autopv.data.pictures import image_grid
from autopv.data.tensors import to_float
from autopv.errors import AutopvError
from autopv.models.base import VideoGenerator
from autopv.policy import Policy
from autopv.report.class_table import MOST_PICTURED
from autopv.report.page.facts import Facts
from autopv.report.preview import preview_frames
from autopv.search.conclusion import trained_model
from autopv.search.material import reload_material
from autopv.search.run_folder import RunFolder
from autopv.training.checkpoint import load_generator
from autopv.training.material import Material
from autopv.training.measure import sample_images
from autopv.verify.controls import IMAGE_ONLY

NUM_SAMPLES = 24
_COLUMNS = 6
_NUM_VIDEOS = 4
# Small images are enlarged (each pixel becomes a square) to about this height.
_SHOWN_PX = 64


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with its caption. uri: the whole file as text."""

    caption: str
    uri: str
    columns: int


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All there are, and in words what could not be drawn.

    samples: of real images, image-only's model and the shown arm's. videos: of the policy named `policy_of`.
    """

    samples: Sequence[Picture]
    videos: Picture | None
    policy_of: str | None
    missing: Sequence[str]


def draw_pictures(folder: RunFolder, facts: Facts) -> Pictures:
    """The pictures of a run; seeded, and quick: a few dozen samples of each model, on the CPU."""
    missing: list[str] = []
    samples: list[Picture] = []
    try:
        material = reload_material(facts.settings)
    except AutopvError as error:
        material = None
        missing.append(f"No real images, and no pseudo videos made of them: {error}")
    if material is not None:
        samples.append(_sheet(_real_images(material), caption="real images (of the training split)"))
    shown = facts.shown_arm
    arms = [IMAGE_ONLY, *([shown] if shown not in (None, IMAGE_ONLY) else [])]
    for arm in arms:
        checkpoint = trained_model(folder, arm=arm, records=facts.records)
        if checkpoint is None:
            missing.append(f"No samples of {arm}: no trained model of it is left in the run folder.")
            continue
        try:
            model, info = load_generator(checkpoint)
        except AutopvError as error:
            missing.append(f"No samples of {arm}: {error}")
            continue
        images_NCHW = sample_images(model, num_images=NUM_SAMPLES, seed=facts.settings.seed)
        samples.append(_sheet(images_NCHW, caption=f"generated: {arm}"))
        if arm == arms[-1]:
            samples += _of_classes(model, info.class_names, arm=arm, seed=facts.settings.seed)
    policy = None if shown is None else facts.policy(shown)
    videos = None
    if material is not None and policy is not None and not policy.is_image_only:
        try:
            videos = _videos(policy, material)
        except AutopvError as error:
            missing.append(f"No pseudo videos: {error}")
    return Pictures(samples=samples, videos=videos, policy_of=shown, missing=missing)


def _real_images(material: Material) -> Tensor:
    train = material.images("train")
    count = min(NUM_SAMPLES, len(train))
    return to_float(train[torch.arange(count) * len(train) // count])


def _of_classes(model: VideoGenerator, class_names: Sequence[str], *, arm: str, seed: int) -> list[Picture]:
    """A row of samples of each class; of more classes than fit a page the first ones."""
    pictures = []
    for label, name in enumerate(class_names[:MOST_PICTURED]):
        images_NCHW = sample_images(model, num_images=2 * _COLUMNS, seed=seed, label=label)
        pictures.append(_sheet(images_NCHW, caption=f"generated: {arm}, class {name}"))
    return pictures


def _videos(policy: Policy, material: Material) -> Picture:
    frames_BTCHW = preview_frames(policy, material.image_set, num_images=_NUM_VIDEOS)
    return _sheet(
        frames_BTCHW.flatten(0, 1),
        columns=policy.num_frames,
        caption=f"frames 1 to {policy.num_frames}, left to right; the last is the image itself",
    )


def _sheet(images_NCHW: Tensor, *, caption: str, columns: int = _COLUMNS) -> Picture:
    scale = max(1, _SHOWN_PX // images_NCHW.shape[-1])
    colours_HWC = image_grid(images_NCHW, columns=columns, scale=scale)
    # The gaps are the page, be it light or dark.
    gaps_HWC = image_grid(torch.zeros_like(images_NCHW), columns=columns, scale=scale)
    alpha_HW1 = 255 - gaps_HWC[..., :1]
    return Picture(caption=caption, uri=_data_uri(np.concatenate([colours_HWC, alpha_HW1], axis=-1)), columns=columns)


def _data_uri(picture_HWC: NDArray[np.uint8]) -> str:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(picture_HWC).save(png, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
