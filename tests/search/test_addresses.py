"""An address at which no cluster can be is told in seconds; Ray itself would go on asking for minutes."""

import time

import pytest

from autopv.errors import InputError
from autopv.search.ray_session import num_devices


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:1", "refused"),
        ("nowhere.invalid:6379", "not known|resolution"),
        ("6379", "neither `auto` nor host:port"),
        ("host:port", "neither `auto` nor host:port"),
        ("127.0.0.1:99999", "neither `auto` nor host:port"),
    ],
)
def test_an_address_without_a_cluster_is_told_with_the_reason_and_what_to_give(address: str, why: str) -> None:
    began_s = time.monotonic()
    with pytest.raises(InputError, match=rf"--address {address}: .*({why}).*Give `auto`"):
        num_devices(address, device="cpu")
    assert time.monotonic() - began_s < 30
