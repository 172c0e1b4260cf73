"""Which metric, and how many generated images, a number of real images supports."""

from dataclasses import dataclass

from autopv.metrics.metric import MetricName

AUTO = "auto"
# Below, the kernel distance puts slightly flawed images behind real ones more often than the Fréchet distance, whose
# bias may even prefer images of lost contrast (experiments/few_images). From here on they tie, and the Fréchet distance
# sees gross flaws more clearly.
FEW_IMAGES = 256
# More generated than real images tell models apart better; beyond this retraining spreads distances more than the draw
# of the images does (experiments/metric_noise). Samples are cheap beside a training.
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
            f"fewer than {FEW_IMAGES} real images a side, where a Fréchet distance's own bias misleads it"
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
