"""Peers as a trial of Ray Tune starts them, without the trial."""

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
"""Of a method's name and calls, by peer its arguments, to what each answered."""


@contextmanager
def this_machine() -> Iterator[None]:
    """Be a cluster of this machine alone."""
    ray.init("local", num_cpus=NUM_CORES, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def peers_of(tree: Mapping[str, Any]) -> Iterator[PeerCall]:
    """Start the peers of a space that searches nothing; yield what asks some of them for something."""
    settings = parse_space(dict(tree)).resolve()
    demand = resource_request(settings, nodes_of_cluster())
    place = placement_group(demand.bundles)
    group = RayGroup(settings, demand, place, "trial")

    def ask(method: str, calls: Mapping[int, tuple[Any, ...]], **options: Any) -> dict[int, Any]:
        answers = dict(group.run(method, calls, LIMIT_S, **options))
        for answer in answers.values():
            if isinstance(answer, Exception):
                raise answer
        return answers

    try:
        yield ask
    finally:
        group.close()
        remove_placement_group(place)
