"""The peers of one population on a Ray cluster, without a study."""

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

ROOM_TIMEOUT_S = 300.0
"""Seconds to wait for room on a shared cluster."""


@contextmanager
def ray_group(settings: Settings, components: Components) -> Iterator[RayGroup]:
    """Run the peers of a population as Ray actors within a block.

    They use the cluster that this process joined by `ray.init`, otherwise a local one that ends with the block.

    Args:
        settings: the population's settings.
        components: components of its peers; they are pickled, so every node must be able to import their modules.

    Raises:
        ResourceError: the cluster has no room for the peers, or none within the timeout.
    """
    if not ray.is_initialized():
        with connect(None), ray_group(settings, components) as group:
            yield group
        return
    request = resource_request(settings, nodes_of_cluster())
    room = placement_group(request.bundles)
    try:
        try:
            ray.get(room.ready(), timeout=ROOM_TIMEOUT_S)
        except GetTimeoutError as error:
            raise ResourceError(
                f"population: {request} found no room on the cluster within {ROOM_TIMEOUT_S:g} s; "
                f"`ray status` shows what uses it"
            ) from error
        group = RayGroup(settings, request, room, settings.name, components)
        try:
            yield group
        finally:
            group.close()
    finally:
        remove_placement_group(room)
