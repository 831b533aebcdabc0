"""The peers of one population on a Ray cluster, without a study around it."""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import GetTimeoutError
from ray.util import placement_group, remove_placement_group

from graftpop.cluster.actors import RayGroup
from graftpop.cluster.connection import connect, nodes_of_cluster
from graftpop.cluster.resources import resource_request
from graftpop.errors import ResourceError
from graftpop.peer.components import Components
from graftpop.settings import Settings

__all__ = ["ray_group"]

ROOM_LIMIT_S = 300.0
"""How long a population waits for room on a cluster that others use too."""


@contextmanager
def ray_group(settings: Settings, parts: Components) -> Iterator[RayGroup]:
    """Run the peers of a population as Ray actors for the time of a block.

    On the cluster that this process is connected to (`ray.init`), else on one of this machine that ends with the block.

    Args:
        settings: of the population.
        parts: what its peers are made of; pickled, so each node must be able to import what they refer to.

    Raises:
        ResourceError: there is no room for the peers, or not within the limit.
    """
    if not ray.is_initialized():
        with connect(None), ray_group(settings, parts) as group:
            yield group
        return
    demand = resource_request(settings, nodes_of_cluster())
    room = placement_group(demand.bundles)
    try:
        try:
            ray.get(room.ready(), timeout=ROOM_LIMIT_S)
        except GetTimeoutError as error:
            raise ResourceError(
                f"population: {demand} found no room on the cluster within {ROOM_LIMIT_S:g} s; "
                f"`ray status` tells what holds it"
            ) from error
        group = RayGroup(settings, demand, room, settings.name, parts)
        try:
            yield group
        finally:
            group.close()
    finally:
        remove_placement_group(room)
