"""Unusable cluster addresses are refused in one line, without waiting."""

import socket
import threading

import pytest

from graftpop.cluster.address import check_can_lead
from graftpop.cluster.connection import connect, dashboard_text, local_node
from graftpop.errors import ResourceError


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_unreachable_address_is_refused(scheme: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"{scheme}127.0.0.1:{free.getsockname()[1]}"
        message = rf"--address {address}: no cluster could be joined: .*; start one with `ray start --head`"
        with pytest.raises(ResourceError, match=message) as caught, connect(address):
            pass
    assert "\n" not in str(caught.value)


def test_absent_folder_of_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/absent/ray")
    with pytest.raises(ResourceError, match="/proc/absent"), connect(None):
        pass


def close_connections(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:  # the server is closed
            return


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_address_of_another_service_is_refused(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=close_connections, args=[server])
        thread.start()
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        usual_port = "10001" if scheme else "6379"
        message = rf"^--address {address}: .*\(UNAVAILABLE\).* {usual_port} "
        with pytest.raises(ResourceError, match=message) as caught, connect(address):
            pass
        assert "\n" not in str(caught.value)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=10)
    assert not thread.is_alive()


@pytest.mark.parametrize("address", [None, "auto", "10.0.0.1:6379", "head.example.com:6379"])
def test_driver_may_run_on_this_machine_or_a_node(address: str | None) -> None:
    check_can_lead(address)  # raises nothing


@pytest.mark.parametrize(
    ("address", "host"), [("ray://10.0.0.1:10001", "10.0.0.1"), ("ray://head:1", "head"), ("ray://", "HEAD")]
)
def test_ray_client_is_refused_with_the_submit_command(address: str, host: str) -> None:
    with pytest.raises(ResourceError, match=rf"^--address {address}: .* ray job submit --address http://{host}:8265 "):
        check_can_lead(address)


def test_local_node_has_cores() -> None:
    assert local_node().cpus >= 1


@pytest.mark.parametrize(
    ("place", "here", "token", "text"),
    [
        ("127.0.0.1:8265", "10.0.0.1", "c0ffee", "http://127.0.0.1:8265  (it asks for a token: c0ffee)"),
        ("127.0.0.1:8265", "10.0.0.1", "", "http://127.0.0.1:8265"),
        ("127.0.0.1:8265", "10.0.0.2", "", "http://127.0.0.1:8265 on 10.0.0.1 only"),
        ("10.0.0.1:8265", "10.0.0.2", "", "http://10.0.0.1:8265"),
        ("", "10.0.0.2", "c0ffee", ""),
    ],
)
def test_dashboard_text_names_address_node_and_token(place: str, here: str, token: str, text: str) -> None:
    assert dashboard_text(place, here, ["10.0.0.1"], token) == text
