"""What a trial asks of the cluster, and whether the cluster can ever give it. Arithmetic only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from graftpop.errors import ResourceError
from graftpop.settings import Settings

__all__ = ["LEAST", "ResourceRequest", "Node", "resource_request"]

RAY_UNITS = 10_000
"""Ray counts a resource in ten-thousandths."""

LEAST = 1 / RAY_UNITS
"""The least that can be asked of a resource."""

MOST_PEERS_SHARING = 8
"""`auto` lets at most so many peers share one core or one card."""


@dataclass(frozen=True)
class Node:
    """What one node of the cluster has."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class ResourceRequest:
    """What the peers of one trial ask for: a placement group with a bundle an actor.

    An actor is a process that has one peer, or several that it runs one after the other. The process that leads them
    only waits for them: it runs on a CPU that it does not reserve, and never on a GPU.
    """

    num_peers: int
    cpus_per_peer: float
    gpus_per_peer: float
    peers_per_actor: int = 1

    @property
    def actors(self) -> list[range]:
        """The peers of each actor."""
        starts = range(0, self.num_peers, self.peers_per_actor)
        return [range(start, min(start + self.peers_per_actor, self.num_peers)) for start in starts]

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What each actor reserves, in whole units of Ray and never more than it was found room for."""
        each = {"CPU": self.cpus_per_peer} | ({"GPU": self.gpus_per_peer} if self.gpus_per_peer else {})
        return [
            {kind: math.floor(len(peers) * amount * RAY_UNITS + 1e-6) / RAY_UNITS for kind, amount in each.items()}
            for peers in self.actors
        ]

    def __str__(self) -> str:
        """Say it as a person would."""
        gpus = f" and {self.gpus_per_peer:g} GPU" if self.gpus_per_peer else ""
        together = f", {self.peers_per_actor} to a process" if self.peers_per_actor > 1 else ""
        return f"{self.num_peers} peer{'s' * (self.num_peers > 1)} of {self.cpus_per_peer:g} CPU{gpus}{together}"


def resource_request(settings: Settings, nodes: Sequence[Node]) -> ResourceRequest:
    """Return what a population asks for on a cluster.

    `auto` gives a peer a whole core, and a whole card where there are cards, if all peers fit so; else 1/n of one
    with the smallest n at which they do, of cores before cards (Ray places fractions other than 1/n badly across
    nodes).

    Peers that share a core share a process too, if `auto` and if all cores have equally many: in turn they train faster
    than side by side, and need less memory. On cards that is not chosen by itself: there it was not measured.

    Args:
        settings: of the population.
        nodes: what the cluster has.

    Raises:
        ResourceError: the peers can never be placed.
    """
    num_peers, resources = settings.population.num_peers, settings.resources
    has_gpus = any(node.gpus for node in nodes)
    shares = [math.floor(RAY_UNITS / sharing) / RAY_UNITS for sharing in range(1, MOST_PEERS_SHARING + 1)]
    of_cpus = list(enumerate(shares, 1)) if resources.cpus_per_peer == "auto" else [(1, resources.cpus_per_peer)]
    of_gpus = (shares if has_gpus else [0.0]) if resources.gpus_per_peer == "auto" else [resources.gpus_per_peer]
    demands = [
        ResourceRequest(num_peers, cpus, gpus, _together(settings.peers_per_actor, num_peers, sharing, gpus, nodes))
        for gpus in of_gpus
        for sharing, cpus in of_cpus
    ]
    demands = [
        demand
        for demand in demands  # Ray gives out cards whole, or a part of one
        if demand.gpus_per_peer % 1 == 0 or demand.peers_per_actor * demand.gpus_per_peer <= 1
    ]
    demand = next((demand for demand in demands if _room(demand, nodes) >= num_peers), demands[-1])
    room = _room(demand, nodes)
    if room < num_peers:
        kinds = f"{sum(node.cpus for node in nodes):g} CPU, {sum(node.gpus for node in nodes):g} GPU"
        raise ResourceError(
            f"population.num_peers: {demand} can never be placed on this cluster ({len(nodes)} "
            f"{'node' if len(nodes) == 1 else 'nodes'}, {kinds}), which has room for {room or 'none'}; choose "
            f"{f'at most {room} peers, or ' * bool(room)}less in resources.cpus_per_peer and resources.gpus_per_peer"
        )
    return demand


def _together(asked: int | Literal["auto"], num_peers: int, sharing: int, gpus: float, nodes: Sequence[Node]) -> int:
    """Return how many peers an actor has where so many of them share a core."""
    if asked != "auto":
        return min(asked, num_peers)
    num_cores = sum(math.floor(node.cpus) for node in nodes)
    return sharing if not gpus and sharing * num_cores == num_peers else 1


def _room(demand: ResourceRequest, nodes: Sequence[Node]) -> int:
    """Return how many of a demand's peers find a place on all nodes together: full actors, and one that is not."""
    cpus, gpus, together = demand.cpus_per_peer, demand.gpus_per_peer, demand.peers_per_actor
    on_node = [min(_parts(node.cpus, cpus), _parts(node.gpus, gpus) if gpus else demand.num_peers) for node in nodes]
    return sum(number - number % together for number in on_node) + max(number % together for number in on_node)


def _parts(amount: float, part: float) -> int:
    """Return how often a part fits into an amount."""
    return math.floor(amount / part + 1e-9)
