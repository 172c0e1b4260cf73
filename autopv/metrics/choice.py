"""Which metric, and how many generated images, a number of real images supports."""

from dataclasses import dataclass

from autopv.metrics.metric import MetricName

AUTO = "auto"
# Below, the Fréchet distance's own floor is so large that it prefers images that have lost contrast to real ones, and
# the kernel distance, which does not, tells images apart nearly as well (experiments/few_images).
FEW_IMAGES = 64
# More generated than real images tell models apart better, up to about this many; samples are cheap beside a training.
ENOUGH_GENERATED = 512


@dataclass(frozen=True)
class MetricChoice:
    """A metric's name, how many images it is given on either side, and why, in one sentence for the user."""

    name: str
    num_images: int
    num_generated: int
    reason: str


def choose_metric(name: str, *, num_images: int, num_train: int) -> MetricChoice:
    """The metric asked for, or for `auto` the one that suits num_images real images on the measured side.

    num_train: real images disjoint from those, which stand in for generated ones when the floor is measured. A Fréchet
    distance takes no more generated images, so that it and its floor have one bias; the kernel distance has none.
    Raises: MetricError for an unknown metric.
    """
    few = num_images < FEW_IMAGES
    if name == AUTO:
        name = "kid_lite0" if few else "fd_lite0"
        why = (
            f"fewer than {FEW_IMAGES} real images a side: a Fréchet distance would mostly measure its own bias"
            if few
            else f"{num_images} real images a side are enough for a Fréchet distance"
        )
    else:
        why = "as asked for"
    wanted = max(num_images, ENOUGH_GENERATED)
    is_kid = MetricName.parse(name).distance == "kid"
    num_generated = wanted if is_kid else max(num_images, min(wanted, num_train))
    if num_generated > num_images:
        why += f"; {num_generated} generated images a measurement, since more of them tell models apart better"
    return MetricChoice(name=name, num_images=num_images, num_generated=num_generated, reason=why)
