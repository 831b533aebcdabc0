"""What a trial asks of the cluster, and whether the cluster can ever give it. Arithmetic only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graftpop.errors import ResourceError
from graftpop.settings import ResourceSettings

__all__ = ["LEAST", "Demand", "Node", "demand_of"]

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
class Demand:
    """What the peers of one trial ask for: a placement group with a bundle a peer.

    The process that leads them only waits for them: it runs on a CPU that it does not reserve, and never on a GPU.
    """

    num_peers: int
    cpus_per_peer: float
    gpus_per_peer: float

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What each peer reserves."""
        gpus = {"GPU": self.gpus_per_peer} if self.gpus_per_peer else {}
        return [{"CPU": self.cpus_per_peer} | gpus for _ in range(self.num_peers)]

    def __str__(self) -> str:
        """Say it as a person would."""
        gpus = f" and {self.gpus_per_peer:g} GPU" if self.gpus_per_peer else ""
        return f"{self.num_peers} peer{'s' * (self.num_peers > 1)} of {self.cpus_per_peer:g} CPU{gpus}"


def demand_of(num_peers: int, resources: ResourceSettings, nodes: Sequence[Node]) -> Demand:
    """Return what a population of some peers asks for on a cluster.

    `auto` gives a peer a whole core, and a whole card where there are cards, if all peers fit so; else 1/n of one
    with the smallest n at which they do, of cores before cards (Ray places fractions other than 1/n badly across
    nodes).

    Args:
        num_peers: of the population.
        resources: the settings.
        nodes: what the cluster has.

    Raises:
        ResourceError: the peers can never be placed.
    """
    has_gpus = any(node.gpus for node in nodes)
    shares = [math.floor(RAY_UNITS / sharing) / RAY_UNITS for sharing in range(1, MOST_PEERS_SHARING + 1)]
    of_cpus = shares if resources.cpus_per_peer == "auto" else [resources.cpus_per_peer]
    of_gpus = (shares if has_gpus else [0.0]) if resources.gpus_per_peer == "auto" else [resources.gpus_per_peer]
    demands = [Demand(num_peers, cpus, gpus) for gpus in of_gpus for cpus in of_cpus]
    demand = next((demand for demand in demands if _room(demand, nodes) >= num_peers), demands[-1])
    room = _room(demand, nodes)
    if room < num_peers:
        kinds = f"{sum(node.cpus for node in nodes):g} CPU, {sum(node.gpus for node in nodes):g} GPU"
        raise ResourceError(
            f"population.num_peers: {demand} can never be placed on this cluster ({len(nodes)} "
            f"{'node' if len(nodes) == 1 else 'nodes'}, {kinds}), which has room for {room or 'none'}; choose "
            f"{f'at most {room} peers, or ' * bool(room)}less in resources.cpus_per_peer and resources.gpus_per_peer")
    return demand


def _room(demand: Demand, nodes: Sequence[Node]) -> int:
    """Return how many of a demand's peers find a place on all nodes together."""
    cpus, gpus = demand.cpus_per_peer, demand.gpus_per_peer
    return sum(min(_parts(node.cpus, cpus), _parts(node.gpus, gpus) if gpus else demand.num_peers) for node in nodes)


def _parts(amount: float, part: float) -> int:
    """Return how often a part fits into an amount."""
    return math.floor(amount / part + 1e-9)
