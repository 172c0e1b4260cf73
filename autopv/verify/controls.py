"""Controls: the references a searched policy must beat, fixed before anything is measured."""

from collections.abc import Callable
from dataclasses import dataclass

from autopv.policy import Layer, Policy

IMAGE_ONLY = "image-only"
NUM_RANDOM = 2
# A mid-sized video; the weight that did best in the first probe of the hierarchical VAE.
_NUM_FRAMES = 4
_FRAME_LOSS_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class Control:
    """A named policy that is always run, exempt from early stopping, and retrained beside the winner."""

    name: str
    policy: Policy


def default_controls() -> tuple[Control, ...]:
    """Image-only training, a noise chain, a blur and a pixelate pyramid: what one would try without a search."""

    def single(name: str, *, magnitude: float, curve: str) -> Control:
        layer = Layer(op=name, magnitude=magnitude, curve=curve, frames=(1, _NUM_FRAMES - 1))
        policy = Policy(num_frames=_NUM_FRAMES, frame_loss_weight=_FRAME_LOSS_WEIGHT, layers=(layer,))
        return Control(name=name.replace("_", "-"), policy=policy.canonical())

    return (
        Control(name=IMAGE_ONLY, policy=Policy.image_only()),
        single("gaussian_noise", magnitude=0.5, curve="linear"),
        single("gaussian_blur", magnitude=0.15, curve="power"),
        single("pixelate", magnitude=0.25, curve="linear"),
    )


def random_controls(random_policy: Callable[[int], Policy], *, seed: int) -> tuple[Control, ...]:
    """The first random policies of a space: what one gets without any skill in searching."""
    return tuple(Control(name=f"random-{i + 1}", policy=random_policy(seed * 1000 + i)) for i in range(NUM_RANDOM))
