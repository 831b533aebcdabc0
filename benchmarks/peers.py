"""Peers in Ray actors, started as in a trial but without Ray Tune."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util import placement_group, remove_placement_group

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.connection import nodes_of_cluster
from graftpop.cluster.resources import resource_request
from graftpop.space import parse_space

__all__ = ["NUM_CORES", "PeerCall", "peers_of", "this_machine"]

NUM_CORES = len(os.sched_getaffinity(0))
LIMIT_S = 300.0
PeerCall = Callable[..., dict[int, Any]]
"""Function from a method's name and its arguments by peer to the results by peer."""


@contextmanager
def this_machine() -> Iterator[None]:
    """Start Ray on this machine for the time of a block."""
    ray.init("local", num_cpus=NUM_CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def peers_of(tree: Mapping[str, Any]) -> Iterator[PeerCall]:
    """Start the peers of a space without searched keys; yield a function that calls a method on peers."""
    settings = parse_space(dict(tree)).resolve()
    request = resource_request(settings, nodes_of_cluster())
    placement = placement_group(request.bundles)
    group = RayGroup(settings, request, placement, "trial")

    def ask(method: str, calls: Mapping[int, tuple[Any, ...]], **options: Any) -> dict[int, Any]:
        results = dict(group.run(method, calls, LIMIT_S, **options))
        for result in results.values():
            if isinstance(result, Exception):
                raise result
        return results

    try:
        yield ask
    finally:
        group.close()
        remove_placement_group(placement)
