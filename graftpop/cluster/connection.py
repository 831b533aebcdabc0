"""Connection to a Ray cluster, or the start of a local one.

Four imports are from `ray._private`, because Ray 2.60 has no public way: whether token authentication is on, the
address of the local cluster with the nodes of this machine, a gRPC channel that sends the token, and the address that
a new cluster listens on.
"""

import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from graftpop.cluster.auth_token import protect_token, read_token
from graftpop.cluster.resources import Node
from graftpop.errors import ResourceError, one_line

__all__ = [
    "Connection",
    "check_can_lead",
    "connect",
    "dashboard_text",
    "local_node",
    "nodes_of_cluster",
    "private_start",
]

ANSWER_TIMEOUT_S = 10.0
CLIENT_SCHEME = "ray://"
LEAST_FREE_MIB = 64
HEAD_RESOURCE = "node:__internal_head__"


@dataclass(frozen=True)
class Connection:
    """A cluster that this process is connected to.

    Attributes:
        nodes: resources of its nodes.
        dashboard: address of its dashboard with a hint about the token; empty without a dashboard.
        here: the resource that only this process's node has.
    """

    nodes: list[Node]
    dashboard: str
    here: str


def local_node() -> Node:
    """Return the resources of this machine, without starting a cluster."""
    import torch

    return Node(float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))


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


@contextmanager
def connect(address: str | None, *, name: str = "", show_token: bool = False) -> Iterator[Connection]:
    """Connect to a cluster within a block; a cluster started for it ends with it.

    Args:
        address: `auto`, `HOST:PORT` or `ray://...`; None starts a new local cluster.
        name: name of the job in Ray's list of jobs.
        show_token: whether the line about the dashboard has its token.

    Raises:
        ResourceError: the cluster cannot be reached or started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns until it is set
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's table would interrupt ours
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray.exceptions import AuthenticationError, RaySystemError
    from ray.job_config import JobConfig

    # a Ray client takes no job_config, but needs no name either
    named: dict[str, Any] = {"job_config": JobConfig(metadata={"job_name": name})} if name else {}
    try:
        if address is not None:
            protect_token(create=False)
            _check_answers(address)
        # `local` instead of None, which would join any cluster that runs on this machine
        with private_start() if address is None else nullcontext(), _sighup_blocked(), _sigterm_kept():
            context = ray.init(address or "local", **named, log_to_driver=False, logging_level=logging.ERROR)
    except SystemExit as error:  # by Ray's handler of SIGTERM
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from error
    except (OSError, ValueError, RuntimeError, RaySystemError, AuthenticationError) as error:
        reason = (one_line(error) or type(error).__name__).rstrip(".")
        if address is None:
            raise ResourceError(f"ray: no cluster could be started on this machine: {reason}{_full_disk()}") from error
        raise ResourceError(
            f"--address {address}: no cluster could be joined: {reason}; start one with "
            f"`ray start --head`, or omit --address to use this machine alone"
        ) from error
    try:
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # our table and records report failures
        here = ray.util.get_node_ip_address()
        heads = [node["NodeManagerAddress"] for node in ray.nodes() if HEAD_RESOURCE in node["Resources"]]
        key = "" if not is_token_auth_enabled() else read_token() if show_token else "ray get-auth-token"
        dashboard = dashboard_text(context.dashboard_url or "", here, heads, key)
        yield Connection(nodes_of_cluster(), dashboard, f"node:{here}")
    finally:
        ray.shutdown()


@contextmanager
def private_start() -> Iterator[None]:
    """Make a cluster that `ray.init` starts within the block private to this machine and user.

    Its processes listen on the loopback interface, all others on every one; its token is readable by its owner alone.

    Raises:
        OSError: the token cannot be created.
    """
    from ray._private import ray_constants

    protect_token(create=True)
    may_have_nodes = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # as on macOS; ray.init replaces `_node_ip_address="127.0.0.1"` otherwise
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = may_have_nodes


def _full_disk() -> str:
    """Return a hint if the folder of Ray's sessions is nearly full, of which Ray reports consequences only."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if not os.path.isdir(folder):
        return ""
    free_mib = shutil.disk_usage(folder).free / 2**20
    return f"; {folder} has {free_mib:.0f} MiB left, free some or set RAY_TMPDIR" if free_mib < LEAST_FREE_MIB else ""


@contextmanager
def _sighup_blocked() -> Iterator[None]:
    """Block SIGHUP; Ray's processes inherit this, so that they outlive the terminal until the driver ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def nodes_of_cluster() -> list[Node]:
    """Return the resources of the connected cluster's living nodes."""
    import ray

    return [
        Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def dashboard_text(place: str, here: str, heads: Sequence[str], token: str) -> str:
    """Return the address of a dashboard, with a hint if it listens on the head only or needs a token.

    Args:
        place: HOST:PORT as Ray reports it on any node; empty without a dashboard.
        here: address of this node.
        heads: addresses of the head.
        token: the token that it asks for, or the command that prints it; empty if it asks for none.
    """
    if not place:
        return ""
    is_elsewhere = place.startswith(("127.", "localhost:")) and here not in heads
    where = f" on {', '.join(heads)} only" if is_elsewhere else ""
    return f"http://{place}{where}{f'  (it asks for a token: {token})' if token else ''}"


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix(CLIENT_SCHEME).rpartition(":")
    return host, port


def _check_answers(address: str) -> None:
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
