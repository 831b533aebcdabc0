"""Addresses at which no cluster answers end in one line, and soon."""

import socket

import pytest

from graftpop.cluster.connection import connect, local_node
from graftpop.errors import ResourceError


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_answers_is_an_error_of_one_line(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
        message = rf"--address {address}: no cluster could be joined: .*; start one with `ray start --head`"
        with pytest.raises(ResourceError, match=message) as caught, connect(address):
            pass
    assert "\n" not in str(caught.value)


def test_this_machine_has_cores() -> None:
    assert local_node().cpus >= 1
