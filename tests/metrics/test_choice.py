import pytest

from autopv.errors import MetricError
from autopv.metrics.choice import choose_metric


@pytest.mark.parametrize(
    ("num_images", "num_train", "name", "num_generated"),
    [
        (20, 60, "kid_lite0", 512),
        (255, 765, "kid_lite0", 512),
        (256, 300, "fd_lite0", 300),
        (256, 768, "fd_lite0", 512),
        (512, 1600, "fd_lite0", 512),
        (600, 1600, "fd_lite0", 600),
    ],
)
def test_auto_follows_the_number_of_real_images(num_images: int, num_train: int, name: str, num_generated: int) -> None:
    choice = choose_metric("auto", num_images=num_images, num_train=num_train)
    assert (choice.name, choice.num_images, choice.num_generated) == (name, num_images, num_generated)
    assert str(256 if name.startswith("kid") else num_images) in choice.reason
    assert (num_generated > num_images) == ("more of them" in choice.reason)


def test_what_is_asked_for_is_kept() -> None:
    choice = choose_metric("fid", num_images=20, num_train=60)
    assert (choice.name, choice.num_generated) == ("fid", 60)
    assert choice.reason.startswith("as asked for")
    assert choose_metric("kid", num_images=20, num_train=60).num_generated == 512
    with pytest.raises(MetricError, match="unknown metric 'auto0'"):
        choose_metric("auto0", num_images=20, num_train=60)
