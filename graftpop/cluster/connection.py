"""Connecting to a cluster, or starting one on this machine."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from graftpop.cluster.resources import Node
from graftpop.errors import ResourceError

__all__ = ["Connection", "connect", "local_node"]

ANSWER_LIMIT_S = 10.0


@dataclass(frozen=True)
class Connection:
    """A cluster that this process is connected to.

    Attributes:
        nodes: what its nodes have.
        dashboard: address of its dashboard, or an empty string where there is none.
    """

    nodes: list[Node]
    dashboard: str


def local_node() -> Node:
    """Return what a cluster started on this machine would have, without starting one."""
    import torch

    return Node(float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))


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
    from ray.exceptions import RaySystemError

    try:
        _check_answers(address)
        # `local` and not None: None would join a cluster that happens to run here, with who knows what on it.
        context = ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError, RaySystemError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if address is None:
            raise ResourceError(f"ray: no cluster could be started on this machine: {reason}") from error
        raise ResourceError(f"--address {address}: no cluster could be joined: {reason}; start one with "
                            f"`ray start --head`, or leave --address out to use this machine alone") from error
    try:
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told by our own table and records
        nodes = [Node(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
                 for node in ray.nodes() if node["Alive"]]
        yield Connection(nodes, context.dashboard_url or "")
    finally:
        ray.shutdown()


def _check_answers(address: str | None) -> None:
    """Check that something answers at HOST:PORT: Ray itself tries for minutes before it gives up.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=ANSWER_LIMIT_S).close()
