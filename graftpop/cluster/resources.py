"""The resources of a trial, and whether a cluster can ever provide them; arithmetic only."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from graftpop.errors import ResourceError
from graftpop.settings import Settings

__all__ = [
    "LEAST",
    "Node",
    "ResourceRequest",
    "bundles_text",
    "check_resources",
    "cluster_text",
    "fits",
    "peers_at_once",
    "resource_request",
]

RAY_UNITS = 10_000
"""Ray counts a resource in ten-thousandths."""

LEAST = 1 / RAY_UNITS
"""The smallest request of a resource."""

MOST_PROCESSES_SHARING = 8
"""`auto` lets at most this many processes share one core, and peers one GPU."""


@dataclass(frozen=True)
class Node:
    """Resources of one node."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ResourceRequest:
    """The request of one trial's peers: a placement group with one bundle per actor.

    An actor is a process with one peer, or several that run one after the other. The leading process only waits for
    them, so it reserves no CPU and never uses a GPU.
    """

    num_peers: int
    cpus_per_peer: float
    gpus_per_peer: float
    peers_per_actor: int = 1

    @property
    def actors(self) -> list[range]:
        """Indices of the peers of each actor."""
        starts = range(0, self.num_peers, self.peers_per_actor)
        return [range(start, min(start + self.peers_per_actor, self.num_peers)) for start in starts]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Reservation of each actor, rounded down to Ray's units."""
        each = {"CPU": self.cpus_per_peer} | ({"GPU": self.gpus_per_peer} if self.gpus_per_peer else {})
        return [
            {kind: math.floor(len(peers) * amount * RAY_UNITS + 1e-6) / RAY_UNITS for kind, amount in each.items()}
            for peers in self.actors
        ]

    def __str__(self) -> str:
        """Return the request in words: `2 peers of 1 CPU`."""
        gpus = f" and {self.gpus_per_peer:g} GPU" if self.gpus_per_peer else ""
        together = f", {self.peers_per_actor} to a process" if self.peers_per_actor > 1 else ""
        return f"{self.num_peers} peer{'s' * (self.num_peers > 1)} of {self.cpus_per_peer:g} CPU{gpus}{together}"


def resource_request(settings: Settings, nodes: Sequence[Node]) -> ResourceRequest:
    """Return the request of a population on a cluster.

    `auto` gives each peer a whole core, and a whole GPU on a cluster with GPUs, if all peers fit. Otherwise it gives
    1/n of one, with the smallest n at which all fit, for cores before GPUs. (Ray places fractions other than 1/n badly
    across nodes.)

    Under `auto`, peers that share a core also share a process if every core has the same number of peers, or if a core
    has more than eight. One after the other they train faster than side by side and need less memory. With GPUs this is
    not automatic, since it was not measured.

    Args:
        settings: the population's settings.
        nodes: resources of the cluster's nodes.

    Raises:
        ResourceError: the peers can never be placed.
    """
    num_peers, resources = settings.population.num_peers, settings.resources
    has_gpus = any(node.gpus for node in nodes)
    most = min(max(num_peers, MOST_PROCESSES_SHARING), RAY_UNITS)
    shares = [math.floor(RAY_UNITS / sharing) / RAY_UNITS for sharing in range(1, most + 1)]
    of_cpus = list(enumerate(shares, 1)) if resources.cpus_per_peer == "auto" else [(1, resources.cpus_per_peer)]
    of_gpus = shares[:MOST_PROCESSES_SHARING] if has_gpus else [0.0]
    if resources.gpus_per_peer != "auto":
        of_gpus = [resources.gpus_per_peer]
    requests = [
        ResourceRequest(num_peers, cpus, gpus, _together(settings.peers_per_actor, num_peers, sharing, gpus, nodes))
        for gpus in of_gpus
        for sharing, cpus in of_cpus
        if sharing <= MOST_PROCESSES_SHARING * _together(settings.peers_per_actor, num_peers, sharing, gpus, nodes)
    ]
    requests = [
        request
        for request in requests  # Ray assigns whole GPUs or a fraction of one
        if request.gpus_per_peer % 1 == 0 or request.peers_per_actor * request.gpus_per_peer <= 1
    ]
    request = next((request for request in requests if _room(request, nodes) >= num_peers), requests[-1])
    room = _room(request, nodes)
    if room < num_peers:
        raise ResourceError(
            f"population.num_peers: {request} can never be placed on this cluster ({cluster_text(nodes)}), "
            f"which has room for {room or 'none'}; choose "
            f"{f'at most {room} peers, or ' * bool(room)}less in resources.cpus_per_peer and resources.gpus_per_peer"
        )
    return request


def check_resources(possible: Iterable[Settings], nodes: Sequence[Node]) -> None:
    """Check that nodes can hold the populations of a study, the largest first.

    Args:
        possible: settings of the study's trials.
        nodes: the nodes.

    Raises:
        ResourceError: the nodes can never hold one of them.
    """
    distinct = {
        (settings.population.num_peers, settings.resources, settings.peers_per_actor): settings for settings in possible
    }
    for settings in sorted(distinct.values(), key=lambda settings: settings.population.num_peers, reverse=True):
        resource_request(settings, nodes)


def peers_at_once(request: ResourceRequest, nodes: Sequence[Node]) -> int:
    """Return how many peers of trials with one request train at the same time on a cluster.

    Peers that share a core or a GPU take turns.
    """
    cpus, gpus = request.cpus_per_peer, request.gpus_per_peer
    placed = sum(min(_parts(node.cpus, cpus), _parts(node.gpus, gpus) if gpus else math.inf) for node in nodes)
    whole = [_parts(node.gpus, max(1.0, gpus)) if gpus else _parts(node.cpus, max(1.0, cpus)) for node in nodes]
    return max(1, min(int(placed) // request.num_peers * request.num_peers, sum(whole)))


def _together(asked: int | Literal["auto"], num_peers: int, sharing: int, gpus: float, nodes: Sequence[Node]) -> int:
    """Return the number of peers per actor if `sharing` of them share a core."""
    if asked != "auto":
        return min(asked, num_peers)
    num_cores = sum(math.floor(node.cpus) for node in nodes)
    if gpus or not num_cores:
        return 1
    equal = math.ceil(num_peers / num_cores)
    return equal if sharing * num_cores == num_peers or sharing > MOST_PROCESSES_SHARING else 1


def _room(request: ResourceRequest, nodes: Sequence[Node]) -> int:
    """Return how many of a request's peers fit on all nodes together: full actors and one partial one."""
    cpus, gpus, together = request.cpus_per_peer, request.gpus_per_peer, request.peers_per_actor
    on_node = [min(_parts(node.cpus, cpus), _parts(node.gpus, gpus) if gpus else request.num_peers) for node in nodes]
    return sum(number - number % together for number in on_node) + max(number % together for number in on_node)


def _parts(amount: float, part: float) -> int:
    """Return how many times a part fits into an amount."""
    return math.floor(amount / part + 1e-9)


def fits(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Node]) -> bool:
    """Return whether a trial's bundles fit on nodes that run nothing else."""
    free = [[round(RAY_UNITS * node.cpus), round(RAY_UNITS * node.gpus)] for node in nodes]
    for bundle in bundles:
        cpus, gpus = (round(RAY_UNITS * bundle.get(kind, 0.0)) for kind in ("CPU", "GPU"))
        room = next((node for node in free if node[0] >= cpus and node[1] >= gpus), None)
        if room is None:
            return False
        room[0] -= cpus
        room[1] -= gpus
    return True


def bundles_text(bundles: Sequence[Mapping[str, float]]) -> str:
    """Return a trial's bundles in words: `4 processes of 1 CPU`; the leading process asks for nothing."""
    kinds = Counter(
        " and ".join(f"{bundle[kind]:g} {kind}" for kind in ("CPU", "GPU") if bundle.get(kind)) for bundle in bundles
    )
    kinds.pop("", None)
    return " and ".join(f"{number} process{'es' * (number > 1)} of {kind}" for kind, number in kinds.items())


def cluster_text(nodes: Sequence[Node]) -> str:
    """Return the resources of nodes in words: `2 nodes, 8 CPU, 1 GPU`."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {cpus:g} CPU, {gpus:g} GPU"
