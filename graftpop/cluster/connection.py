"""Connecting to a cluster, or starting one on this machine."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from graftpop.cluster.resources import Node
from graftpop.errors import ResourceError

__all__ = ["Connection", "check_can_lead", "connect", "dashboard_text", "local_node", "nodes_of_cluster"]

ANSWER_TIMEOUT_S = 10.0
CLIENT_SCHEME = "ray://"
HEAD_RESOURCE = "node:__internal_head__"


@dataclass(frozen=True)
class Connection:
    """A cluster that this process is connected to.

    Attributes:
        nodes: what its nodes have.
        dashboard: where its dashboard is and what it asks for, or an empty string where there is none.
        here: the resource that only the node of this process has.
    """

    nodes: list[Node]
    dashboard: str
    here: str


def local_node() -> Node:
    """Return what a cluster started on this machine would have, without starting one."""
    import torch

    return Node(float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))


def check_can_lead(address: str | None) -> None:
    """Check that a study can be led over an address: Tune's driver needs a node of the cluster under it.

    Raises:
        ResourceError: it is a client's address, by which one can only look.
    """
    if address is not None and address.startswith(CLIENT_SCHEME):
        host = _host_and_port(address)[0] or "HEAD"
        raise ResourceError(
            f"--address {address}: Ray Tune cannot lead a study through a Ray client, which is for --dry-run only; use "
            f"ray job submit --address http://{host}:8265 --working-dir . -- python -m graftpop.tune ..."
        )


@contextmanager
def connect(address: str | None) -> Iterator[Connection]:
    """Connect to a cluster for the time of a block; a cluster that was started for it ends with it.

    Args:
        address: `auto`, `HOST:PORT` or `ray://...`; None starts a new cluster of this machine alone.

    Raises:
        ResourceError: the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns until one has chosen
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own table would stand between ours
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray.exceptions import AuthenticationError, RaySystemError

    try:
        if address is not None:
            _check_answers(address)
        # `local` and not None: None would join a cluster that happens to run here, with who knows what on it.
        context = ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RaySystemError, AuthenticationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        if address is None:
            raise ResourceError(f"ray: no cluster could be started on this machine: {reason}") from error
        raise ResourceError(
            f"--address {address}: no cluster could be joined: {reason}; start one with "
            f"`ray start --head`, or leave --address out to use this machine alone"
        ) from error
    try:
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told by our own table and records
        here = ray.util.get_node_ip_address()
        heads = [node["NodeManagerAddress"] for node in ray.nodes() if HEAD_RESOURCE in node["Resources"]]
        dashboard = dashboard_text(context.dashboard_url or "", here, heads, asks=is_token_auth_enabled())
        yield Connection(nodes_of_cluster(), dashboard, f"node:{here}")
    finally:
        ray.shutdown()


def nodes_of_cluster() -> list[Node]:
    """Return what the nodes of the cluster have that this process is connected to."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def dashboard_text(place: str, here: str, heads: Sequence[str], *, asks: bool) -> str:
    """Return in words where a dashboard is. Unless it is told otherwise it listens on its own node only, the head.

    Args:
        place: HOST:PORT as Ray tells it on any node, or an empty string where there is none.
        here: address of this node.
        heads: address of the head.
        asks: whether it asks for a token.
    """
    if not place:
        return ""
    is_elsewhere = place.startswith(("127.", "localhost:")) and here not in heads
    where = f" on {', '.join(heads)} only" if is_elsewhere else ""
    return f"http://{place}{where}{'  (it asks for a token: ray get-auth-token)' if asks else ''}"


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix(CLIENT_SCHEME).rpartition(":")
    return host, port


def _check_answers(address: str) -> None:
    """Check that a cluster answers, knows our token and has a node here: Ray itself tries for a minute, and says less.

    Raises:
        OSError: nothing answers.
        ResourceError: what answers will not have us.
    """
    from ray._private import services

    is_client = address.startswith(CLIENT_SCHEME)
    place = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
    if place is None:  # no cluster has been started here: Ray says so at once
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
                f"this machine is no node of that cluster; run `ray start --address={host}:{port}` here, or "
                "`ray job submit` with this command"
            )
    if refusal:
        raise ResourceError(f"--address {address}: {refusal}")


def _refusal(place: str, method: str, usual: str) -> str:
    """Ask HOST:PORT for a sign of life; return why it gives none and what to do, or an empty string.

    Args:
        place: HOST:PORT.
        method: what is called, with a request of no content.
        usual: which port it usually is.
    """
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.exceptions import AuthenticationError

    token = "export RAY_AUTH_MODE=token, and as RAY_AUTH_TOKEN what `ray get-auth-token` prints on the head"
    try:
        with init_grpc_channel(place) as channel:
            channel.unary_unary(method)(b"", timeout=ANSWER_TIMEOUT_S)
    except AuthenticationError:
        return f"RAY_AUTH_MODE is token, and there is no token here; {token}"
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return f"the cluster got no token, or not its own; {token}"
        if error.code() == grpc.StatusCode.NOT_FOUND:  # a client server, that we have not yet introduced ourselves to
            return ""
        return f"what answers there is something else ({error.code().name}); {usual} unless it was set"
    return ""
