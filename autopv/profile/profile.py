"""The information profile of a policy on given images: frame by frame, how far it is and what it still tells.

Everything is measured on the frames as 8-bit pictures, the precision of the images themselves.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from autopv.data.tensors import to_float, to_uint8
from autopv.errors import DataError, PolicyError
from autopv.metrics.extractors import load_extractor
from autopv.policy import Policy
from autopv.policy.ops.base import Op
from autopv.profile.probe import MAX_RADIUS, fitting_radius, probe
from autopv.profile.spectrum import band_edges, band_shares

MIN_IMAGES = 16
"""Fewer say nothing: the probe is fitted on three quarters of them, and spreads are taken over them."""
MIN_SIZE_PX = 8
EXTRACTOR = "lite0"
# The network is by far the slowest part.
_FEATURE_IMAGES = 64
_EXAMPLES = 3
_MAX_DONORS = 64
_DONOR_SHARE = 4
# Fixed, so that one seed gives one set of videos.
_CHUNK = 32
# All frames are held, in 8 bits.
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class FrameProfile:
    """What one pseudo frame is worth."""

    frame: int
    """1 = most corrupted."""
    pixel_distance: float
    """Root mean square difference from the image, in units of that between two different images."""
    feature_distance: float | None
    """The same of the pooled features of a network; None where they were not asked for."""
    kept: tuple[float, ...]
    """Share of the images' variance that this frame predicts, band by band (autopv.profile.spectrum)."""
    alone: float
    """R^2 of the image from this frame alone (autopv.profile.probe)."""
    alone_se: float
    """Its standard error over the images."""
    joint: float
    """R^2 of the image from this and all later pseudo frames together."""
    gain: float
    """The joint R^2 less that of the last pseudo frame alone: what the earlier frames add."""
    gain_se: float


@dataclass(frozen=True, kw_only=True)
class PolicyProfile:
    """The profile of every pseudo frame, and what it was measured on."""

    policy: str
    """The policy in one line."""
    policy_digest: str
    num_frames: int
    first_order: bool
    """Whether it is a chain, without coins and ops that look back at the image: earlier frames then add nothing to the
    last, and what they seem to add is no information."""
    images_digest: str
    """sha256 of the images that the sample was taken from."""
    num_images: int
    channels: int
    height_px: int
    width_px: int
    seed: int
    extractor: str | None
    extractor_digest: str | None
    band_edges: tuple[float, ...]
    """Cycles per shorter side; one band between each two."""
    radius: int
    """Half-width in pixels of the probe's window."""
    frames: tuple[FrameProfile, ...]
    """Frames 1..num_frames - 1; the last frame is the image itself."""
    examples_BTCHW: Tensor = field(repr=False, compare=False)
    """A few of the videos (uint8) that this was measured on, to be shown; no part of `to_dict`."""

    @property
    def together(self) -> float:
        """R^2 of the image from all pseudo frames."""
        return self.frames[0].joint

    def to_dict(self) -> dict[str, Any]:
        """The profile in plain JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "examples_BTCHW"}
        values["band_edges"] = list(self.band_edges)
        values["frames"] = [{**asdict(frame), "kept": list(frame.kept)} for frame in self.frames]
        return values


def profile_policy(
    policy: Policy,
    images_NCHW: Tensor,
    *,
    masks_NHW: Tensor | None = None,
    seed: int = 0,
    num_images: int = 128,
    with_features: bool = True,
    radius: int | None = None,
) -> PolicyProfile:
    """The profile on `num_images` of the images (uint8), drawn by the seed; on all where there are fewer.

    masks_NHW: bool, where the defects are. Donors, where the policy needs them, are images outside the sample.
    radius: half-width of the probe's window (0 to 2); by default the largest for which the data suffice. Profiles of
    policies of different lengths are comparable at one radius only.
    Raises: PolicyError for image-only training (no pseudo frames), or masks that are needed and not there; DataError
    for images that are too few, too many to hold, too small, or all alike.
    """
    if radius is not None and not 0 <= radius <= MAX_RADIUS:
        raise DataError(f"0 <= radius <= {MAX_RADIUS} must hold, but got radius={radius}")
    generator = torch.Generator().manual_seed(seed)
    sample = _choose(policy, images_NCHW, masks_NHW=masks_NHW, num_images=num_images, generator=generator)
    count, channels, height, width = sample.images_NCHW.shape
    edges = band_edges(height, width)
    frames_NTCHW = torch.cat(
        [to_uint8(chunk_BTCHW[:, :-1]) for chunk_BTCHW in _videos(policy, sample, generator=generator)]
    )
    if radius is None:
        radius = fitting_radius(tuple(frames_NTCHW.shape))
    pixel_T = _distances(sample.images_NCHW, frames_NTCHW, vectors=_pixels)
    kept_TE = band_shares(sample.images_NCHW, frames_NTCHW, edges=edges)
    probed = probe(sample.images_NCHW, frames_NTCHW, radius=radius, generator=generator)
    feature_T: list[float] | None = None
    if with_features:
        few = slice(0, _FEATURE_IMAGES)
        feature_T = _distances(sample.images_NCHW[few], frames_NTCHW[few], vectors=load_extractor(EXTRACTOR).features)
    return PolicyProfile(
        policy=policy.describe(),
        policy_digest=policy.digest,
        num_frames=policy.num_frames,
        first_order=_is_first_order(policy),
        images_digest=hashlib.sha256(
            f"{tuple(images_NCHW.shape)}\n".encode() + images_NCHW.numpy().tobytes()
        ).hexdigest(),
        num_images=count,
        channels=channels,
        height_px=height,
        width_px=width,
        seed=seed,
        extractor=EXTRACTOR if with_features else None,
        extractor_digest=load_extractor(EXTRACTOR).digest if with_features else None,
        band_edges=edges,
        radius=radius,
        frames=tuple(
            FrameProfile(
                frame=t + 1,
                pixel_distance=pixel_T[t],
                feature_distance=None if feature_T is None else feature_T[t],
                kept=tuple(kept_TE[t].tolist()),
                alone=float(probed.alone_T[t]),
                alone_se=float(probed.alone_se_T[t]),
                joint=float(probed.joint_T[t]),
                gain=float(probed.gain_T[t]),
                gain_se=float(probed.gain_se_T[t]),
            )
            for t in range(policy.num_frames - 1)
        ),
        examples_BTCHW=torch.cat([frames_NTCHW, sample.images_NCHW[:, None]], dim=1)[:_EXAMPLES],
    )


def _is_first_order(policy: Policy) -> bool:
    canonical = policy.canonical()
    # What an op prepares, it makes from the image itself (or donors), whatever frame it then steps from.
    return canonical.markov_order == 1 and all(
        layer.probability == 1 and type(layer.definition).prepare is Op.prepare for layer in canonical.layers
    )


@dataclass(frozen=True, kw_only=True)
class _Sample:
    images_NCHW: Tensor
    masks_NHW: Tensor | None
    donors_NCHW: Tensor | None


def _choose(
    policy: Policy, images_NCHW: Tensor, *, masks_NHW: Tensor | None, num_images: int, generator: torch.Generator
) -> _Sample:
    """The sample, and donors from outside it where the policy needs them. Raises: as `profile_policy`."""
    if policy.num_frames == 1:
        raise PolicyError("a profile needs pseudo frames (num_frames >= 2), but this policy is image-only")
    if images_NCHW.dtype != torch.uint8 or images_NCHW.ndim != 4 or min(images_NCHW.shape[-2:]) < MIN_SIZE_PX:
        raise DataError(
            f"a profile takes uint8 images (N, C, H, W) of at least {MIN_SIZE_PX} px, but got {images_NCHW.dtype} with "
            f"shape {tuple(images_NCHW.shape)}"
        )
    available = len(images_NCHW)
    if masks_NHW is not None and len(masks_NHW) != available:
        raise DataError(f"masks must be one per image ({available}), but got {len(masks_NHW)}")
    num_donors = 0
    if "donors" in policy.needs:
        # Small sets give up a share of themselves.
        num_donors = min(_MAX_DONORS, max(available - num_images, available // _DONOR_SHARE))
    count = min(num_images, available - num_donors)
    if count < MIN_IMAGES:
        beside = f" beside {num_donors} donors that its ops take from" if num_donors else ""
        raise DataError(
            f"a profile needs at least {MIN_IMAGES} images{beside}, but got {min(num_images, available)} "
            f"(asked for {num_images} of {available})"
        )
    per_image = policy.num_frames * math.prod(images_NCHW.shape[1:])
    if count * per_image > _MAX_BYTES:
        raise DataError(
            f"a profile holds at most {_MAX_BYTES >> 20} MiB of frames, {_MAX_BYTES // per_image} images of this size "
            f"and number of frames, but got {count}; take fewer images"
        )
    order_N = torch.randperm(available, generator=generator)
    chosen = order_N[:count]
    if torch.equal(images_NCHW[chosen], images_NCHW[chosen[:1]].expand(count, -1, -1, -1)):
        raise DataError(f"a profile needs images that differ, but the {count} of its sample are all the same")
    return _Sample(
        images_NCHW=images_NCHW[chosen],
        masks_NHW=None if masks_NHW is None else masks_NHW[chosen],
        donors_NCHW=to_float(images_NCHW[order_N[count : count + num_donors]]) if num_donors else None,
    )


def _videos(policy: Policy, sample: _Sample, *, generator: torch.Generator) -> Iterator[Tensor]:
    """The videos frames_BTCHW of the sample, a chunk at a time."""
    for chunk in torch.split(torch.arange(len(sample.images_NCHW)), _CHUNK):
        masks_BHW = None if sample.masks_NHW is None else sample.masks_NHW[chunk]
        yield policy.render(
            to_float(sample.images_NCHW[chunk]), generator=generator, masks_BHW=masks_BHW, donors=sample.donors_NCHW
        )


def _distances(images_NCHW: Tensor, frames_NTCHW: Tensor, *, vectors: Callable[[Tensor], Tensor]) -> list[float]:
    """Root mean square distance of every frame from its image, over that between two different images."""
    count, num_frames = frames_NTCHW.shape[:2]
    sums_D: Tensor | float = 0.0
    squares = 0.0
    apart = [0.0] * num_frames
    for chunk in torch.split(torch.arange(count), _CHUNK):
        images_ND = vectors(to_float(images_NCHW[chunk])).double()
        sums_D = sums_D + images_ND.sum(0)
        squares += float(images_ND.square().sum())
        for t in range(num_frames):
            frames_ND = vectors(to_float(frames_NTCHW[chunk, t])).double()
            apart[t] += float((frames_ND - images_ND).square().sum())
    # Over all pairs of different images, the mean squared distance is 2 n / (n - 1) times that from the mean.
    between = 2 / (count - 1) * (squares - float(torch.as_tensor(sums_D).square().sum()) / count)
    return [math.sqrt(total / count / between) for total in apart]


def _pixels(images_NCHW: Tensor) -> Tensor:
    return images_NCHW.flatten(1)
