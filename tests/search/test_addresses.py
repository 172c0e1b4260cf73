"""An address at which no cluster can be is told in seconds; Ray itself would go on asking for minutes."""

import socket
import time

import pytest

from autopv.errors import InputError
from autopv.search import ray_session
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


def test_the_port_of_rays_helper_is_none_that_the_system_gives_to_connections() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        given = set()
        for _ in range(20):
            with socket.create_connection(listener.getsockname()) as connection:
                given.add(connection.getsockname()[1])
    ports = {ray_session._free_port() for _ in range(20)}
    assert len(ports) > 15, "two that start at a time do not take the same one"
    assert max(ports) < min(given)
