"""Policies, times and shares in words that need no knowledge of the policy language."""

import shlex
import time

from autopv.policy import Layer, Policy
from autopv.report.numbers import distance_text

_CURVES = {"linear": "evenly", "cosine": "smoothly", "power": "fast at first"}
_HOURS_FROM_S = 5 * 3600
_MINUTES_FROM_S = 120


def policy_words(policy: Policy) -> str:
    """What a policy does, in one sentence without its full stop.

    >>> from autopv.policy import Layer
    >>> blur = Layer(op="gaussian_blur", magnitude=0.06, frames=(1, 3))
    >>> policy_words(Policy(num_frames=4, layers=(blur,)))  # doctest: +NORMALIZE_WHITESPACE
    'A video of 4 frames: gaussian blur (sigma 0.06), fading evenly up to the image;
    each frame made from the next; a pseudo frame weighs 0.1 of the image'
    """
    if policy.is_image_only:
        return "Training on the images alone, without pseudo frames"
    parts = [f"A video of {policy.num_frames} frames: {_layers_words(policy)}", _order_words(policy)]
    weight = f"a pseudo frame weighs {policy.frame_loss_weight:.2g} of the image"
    if policy.frame_loss_until < 1:
        weight += f", fading out over the first {policy.frame_loss_until:.0%} of the training"
    return "; ".join([*parts, weight])


def time_words(device_s: float, *, device: str) -> str:
    """Device time in the unit that suits its size.

    >>> time_words(5400, device="gpu"), time_words(42, device="cpu")
    ('90.0 gpu-min', '42 cpu-s')
    """
    unit_s, unit = time_unit(device_s)
    return f"{device_s / unit_s:.{0 if unit == 's' else 1}f} {device}-{unit}"


def time_unit(device_s: float) -> tuple[float, str]:
    """The unit that suits a time: its seconds, and its name."""
    if device_s >= _HOURS_FROM_S:
        return 3600.0, "h"
    return (60.0, "min") if device_s >= _MINUTES_FROM_S else (1.0, "s")


def change_words(gain: float) -> str:
    """A gain as a change of excess: a gain of 0.13 is -13%."""
    return f"{-100 * gain:+.0f}%" if abs(gain) >= 0.095 else f"{-100 * gain:+.1f}%"


def date_words(seconds: float) -> str:
    """Seconds since the epoch as a date and time."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def seed_words(distance: float) -> str:
    """A seed's distance: beside excesses and intervals, large ones need no digit after the point."""
    return f"{distance:.0f}" if distance >= 100 else distance_text(distance)


def command(*words: object) -> str:
    """A command line as it must be typed; words that are None, and flags before them, are left out."""
    kept: list[str] = []
    for word in words:
        if word is not None:
            kept.append(str(word))
        elif kept[-1].startswith("--"):
            kept.pop()
    return shlex.join(kept)


def _layers_words(policy: Policy) -> str:
    """All layers; how they fade is said once where they fade alike."""
    fades = [_fade_words(layer, num_frames=policy.num_frames) for layer in policy.layers]
    if not fades:
        return "copies of the image"
    if len(set(fades)) == 1:
        return f"{', then '.join(_strength_words(layer) for layer in policy.layers)}, {fades[0]}"
    return ", then ".join(f"{_strength_words(layer)} {fade}" for layer, fade in zip(policy.layers, fades, strict=True))


def _strength_words(layer: Layer) -> str:
    name, magnitude = layer.op.replace("_", " "), layer.definition.magnitude_name.replace("_", " ")
    sometimes = f" in {layer.probability:.0%} of the videos" if layer.probability < 1 else ""
    return f"{name} ({magnitude} {layer.magnitude:.2g}){sometimes}"


def _fade_words(layer: Layer, *, num_frames: int) -> str:
    first, last = layer.frames
    since = f"full up to frame {first}, then " if first > 1 else ""
    until = "up to the image" if last + 1 >= num_frames else f"until frame {last + 1}"
    return f"{since}fading {_CURVES[layer.curve]} {until}"


def _order_words(policy: Policy) -> str:
    if policy.randomness == "shared":
        return "all frames made straight from the image with one draw that grows"
    if policy.markov_order == 1:
        return "each frame made from the next"
    if policy.markov_order >= policy.num_frames - 1:
        return "each frame made straight from the image"
    return f"each frame made from the one {policy.markov_order} later"


def data_words(data: str) -> str:
    """A data source by its name: the last part of a path.

    >>> data_words("elpv"), data_words("/home/me/defects")
    ('elpv', 'defects')
    """
    return data.rstrip("/").rsplit("/", 1)[-1] or data
