"""Connection to a Ray cluster, or to a local one that starts during other work.

One import is from `ray._private`, because Ray 2.60 has no public way: whether token authentication is on.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from graftpop.cluster.address import check_answers
from graftpop.cluster.auth_token import protect_token, read_token
from graftpop.cluster.local_ray import hint_of_full_disk, sighup_blocked, sigterm_kept, started_in_thread
from graftpop.cluster.resources import Node
from graftpop.errors import ResourceError, one_line

__all__ = [
    "Connection",
    "Start",
    "connect",
    "connected",
    "dashboard_text",
    "local_node",
    "nodes_of_cluster",
    "starting",
]

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


@contextmanager
def starting(address: str | None, *, name: str = "") -> Iterator[Start]:
    """Start a local cluster in the background, while a block does other work.

    The cluster ends with the block. If the block ends while the cluster still starts, for example after an error, the
    start is abandoned; only the end of this process waits for it.

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
    else:
        # `local` instead of None, which would join any cluster that runs on this machine
        with started_in_thread(partial(init, "local")) as wait:
            yield Start(None, wait)


@contextmanager
def connected(start: Start, *, show_token: bool = False) -> Iterator[Connection]:
    """Connect to a cluster within a block.

    Args:
        start: from `starting`.
        show_token: whether the line about the dashboard includes its token.

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
            reason += hint_of_full_disk()
            raise ResourceError(f"ray: no cluster could be started on this machine: {reason}") from error
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
    """Connect to a cluster within a block, and do nothing while it starts; see `starting` and `connected`."""
    with starting(address) as start, connected(start) as connection:
        yield connection


def _join(address: str, init: Callable[[str], Any]) -> Any:
    """Join the cluster at an address by `ray.init`; return Ray's context."""
    protect_token(create=False)
    check_answers(address)
    try:
        with sighup_blocked(), sigterm_kept():
            return init(address)
    except SystemExit as error:  # by Ray's handler of SIGTERM, which it installs in the main thread only
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from error


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
