"""Connection to a Ray cluster, or the start of a local one.

Four imports are from `ray._private`, because Ray 2.60 has no public way: whether token authentication is on, the
address of the local cluster with the nodes of this machine, a gRPC channel that sends the token, and the address that
a new cluster listens on.
"""

import ctypes
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any

from graftpop.cluster.auth_token import protect_token, read_token
from graftpop.cluster.resources import Node
from graftpop.errors import ResourceError, one_line

__all__ = [
    "Connection",
    "Start",
    "check_can_lead",
    "connect",
    "connected",
    "dashboard_text",
    "local_node",
    "nodes_of_cluster",
    "private_start",
    "starting",
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


@dataclass(frozen=True)
class Start:
    """A cluster that this process is not connected to yet.

    Attributes:
        address: None for a local cluster that starts.
        wait: waits until this process is connected; returns Ray's context.
    """

    address: str | None
    wait: Callable[[], Any]


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
def starting(address: str | None, *, name: str = "") -> Iterator[Start]:
    """Start a local cluster in the background, while a block does other work.

    The cluster ends with the block. If the block ends while the cluster starts, as after an error, the start is broken
    off. Nothing waits for that but the end of this process.

    Args:
        address: None starts a new local cluster; with `auto`, `HOST:PORT` or `ray://...` nothing happens before
            `connected`.
        name: name of the job in Ray's list of jobs.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns until it is set
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's table would interrupt ours
    import ray
    from ray.job_config import JobConfig

    # a Ray client takes no job_config, but needs no name either
    named: dict[str, Any] = {"job_config": JobConfig(metadata={"job_name": name})} if name else {}

    def init(at: str) -> Any:
        return ray.init(at, **named, log_to_driver=False, logging_level=logging.ERROR)

    if address is not None:
        yield Start(address, partial(_join, address, init))
        return
    context, is_over = Future[Any](), Event()

    def run() -> None:
        try:
            with private_start(), _sighup_blocked(), _sigterm_action_kept():
                # `local` instead of None, which would join any cluster that runs on this machine
                ready = init("local")
            context.set_result(ready)
            is_over.wait()  # the kernel ends Ray's processes with the thread that started them
        except BaseException as error:  # of the thread, which `wait` raises in the main one
            if not context.done():
                context.set_exception(error)
        finally:
            ray.shutdown()

    thread = Thread(target=run, name="ray")
    try:
        thread.start()
        yield Start(None, context.result)
    finally:
        is_over.set()
        if context.done():
            thread.join()
        else:  # as Ctrl-C does in the main thread
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


@contextmanager
def connected(start: Start, *, show_token: bool = False) -> Iterator[Connection]:
    """Connect to a cluster within a block.

    Args:
        start: from `starting`.
        show_token: whether the line about the dashboard has its token.

    Raises:
        ResourceError: the cluster cannot be reached or started.
    """
    import ray
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray.exceptions import AuthenticationError, RaySystemError

    try:
        context = start.wait()
    except Exception as error:
        failures = (OSError, ValueError, RuntimeError, RaySystemError, AuthenticationError)
        if not isinstance(error, failures) and type(error) is not Exception:  # Ray: slow to start
            raise
        reason = (one_line(error) or type(error).__name__).rstrip(".")
        if start.address is None:
            raise ResourceError(f"ray: no cluster could be started on this machine: {reason}{_full_disk()}") from error
        raise ResourceError(
            f"--address {start.address}: no cluster could be joined: {reason}; start one with "
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
def connect(address: str | None) -> Iterator[Connection]:
    """Connect to a cluster within a block, without work beside its start; see `starting` and `connected`."""
    with starting(address) as start, connected(start) as connection:
        yield connection


def _join(address: str, init: Callable[[str], Any]) -> Any:
    """Join the cluster at an address by `ray.init`; return Ray's context."""
    protect_token(create=False)
    _check_answers(address)
    try:
        with _sighup_blocked(), _sigterm_kept():
            return init(address)
    except SystemExit as error:  # by Ray's handler of SIGTERM, which it installs in the main thread only
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from error


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


@contextmanager
def _sigterm_action_kept() -> Iterator[None]:
    """Restore the C handler of SIGTERM in any thread; Python can do so in the main thread only.

    Ray's core installs a handler that prints its stack.
    """
    libc, action = ctypes.CDLL(None), ctypes.create_string_buffer(1024)  # larger than any `struct sigaction`
    libc.sigaction(signal.SIGTERM, None, action)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, action, None)


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
