"""Checks of the address of a running Ray cluster, before this process joins it.

Two imports are from `ray._private`, because Ray 2.60 has no public way: the address of the local cluster with the nodes
of this machine, and a gRPC channel that sends the token.
"""

import socket

from graftpop.errors import ResourceError

__all__ = ["check_answers", "check_can_lead"]

ANSWER_TIMEOUT_S = 10.0
CLIENT_SCHEME = "ray://"


def check_can_lead(address: str | None) -> None:
    """Check that a study can run over an address: Tune's driver needs a node of the cluster.

    Raises:
        ResourceError: it is the address of a Ray client.
    """
    if address is not None and address.startswith(CLIENT_SCHEME):
        host = _host_and_port(address)[0] or "HEAD"
        raise ResourceError(
            f"--address {address}: Ray Tune cannot drive a study through a Ray client, which serves --dry-run only; "
            f"use ray job submit --address http://{host}:8265 --working-dir . -- python -m graftpop.tune ..."
        )


def check_answers(address: str) -> None:
    """Check that a cluster answers, accepts our token and has a node here.

    Ray itself retries for a minute and reports less.

    Raises:
        OSError: nothing answers.
        ResourceError: the cluster refuses this process.
    """
    from ray._private import services

    is_client = address.startswith(CLIENT_SCHEME)
    place = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
    if place is None:  # no cluster runs here, which Ray reports at once
        return
    host, port = _host_and_port(place)
    if not (host and port.isdecimal()):
        return
    socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_TIMEOUT_S).close()
    if is_client:
        refusal = _refusal(f"{host}:{port}", "/ray.rpc.RayletDriver/ClusterInfo", "a client server's port is 10001")
    else:
        refusal = _refusal(f"{host}:{port}", "/ray.rpc.NodeInfoGcsService/CheckAlive", "the head's port is 6379")
        if not refusal and not services.find_node_ids():
            refusal = (
                f"this machine is not a node of that cluster; run `ray start --address={host}:{port}` here, or "
                "`ray job submit` with this command"
            )
    if refusal:
        raise ResourceError(f"--address {address}: {refusal}")


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix(CLIENT_SCHEME).rpartition(":")
    return host, port


def _refusal(place: str, method: str, usual: str) -> str:
    """Call HOST:PORT once; return why it refused and the next step, or an empty string.

    Args:
        place: HOST:PORT.
        method: gRPC method, called with an empty request.
        usual: sentence with the usual port, for messages.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.exceptions import AuthenticationError

    token = "export RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN as printed by `ray get-auth-token` on the head"
    try:
        with init_grpc_channel(place) as channel:
            channel.unary_unary(method)(b"", timeout=ANSWER_TIMEOUT_S)
    except AuthenticationError:
        return f"RAY_AUTH_MODE is token, but this machine has no token; {token}"
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return f"the cluster got no token or a wrong one; {token}"
        if error.code() == grpc.StatusCode.NOT_FOUND:  # a client server before our handshake
            return ""
        return f"another service answers there ({error.code().name}); {usual} by default"
    return ""
