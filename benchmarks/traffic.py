"""The bytes of a round on a cluster: a model of snapshots and states, from the topologies' own code.

Peers are placed in order, 16 to a node, as Ray packs a trial's bundles. A node gets each remote snapshot once and holds
it with those of its own peers. All copies of a snapshot come from its peer's node, although Ray may also take them from
others. After the exchange the leading process gets the states of all peers, weights and momentum, one after the other:
over its node's network, then out of its node's object store and into it again. The store has them twice, since those of
the last round go when the new ones are complete. Networks carry 10 Gbit/s in each direction and nothing else.
"""

import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import ray
from turns import print_table

from graftpop.ops.topology import TOPOLOGIES

__all__ = ["PEERS_PER_NODE", "report_traffic", "seconds_per_gb"]

PEERS_PER_NODE = 16
BYTES_PER_S = 10e9 / 8
SNAPSHOTS_MB = (2, 100)
"""About ResNet-32 and ResNet-50."""

STATE = 2
"""Size of a peer's state, in snapshots: weights and momentum."""

COPIED_BYTES = 200_000_000
NUM_COPIES = 5


def seconds_per_gb() -> float:
    """Return the measured seconds to take a gigabyte of bytes out of the object store and put it back."""
    seconds = []
    for _ in range(NUM_COPIES):
        reference = ray.put(bytes(COPIED_BYTES))
        start = time.perf_counter()
        ray.put(ray.get(reference))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / COPIED_BYTES * 1e9


def report_traffic(peers: Sequence[int], copy_s_per_gb: float) -> dict[str, Any]:
    """Print the traffic of exchanges and of states; return both tables."""
    exchanges = [exchange(topology, num_peers) for num_peers in peers for topology in TOPOLOGIES]
    states = [states_of(num_peers, mb, copy_s_per_gb) for num_peers in peers for mb in SNAPSHOTS_MB]
    for cases in (exchanges, states):
        columns = list(cases[0])
        print_table(columns, [[text(case[column]) for column in columns] for case in cases])
        print()
    return {"exchanges": exchanges, "states": states, "copy_s_per_gb": round(copy_s_per_gb, 3)}


def text(value: float | str) -> str:
    """Return a cell."""
    return value if isinstance(value, str) else f"{value:,}"


def exchange(topology: str, num_peers: int) -> dict[str, Any]:
    """Return the snapshots that the busiest node gets, sends and holds, and the seconds of the transfer by size."""
    donors_of = TOPOLOGIES[topology](num_peers, 0, random.Random(0))
    moved = {
        (donor, receiver // PEERS_PER_NODE)
        for receiver, donors in enumerate(donors_of)
        for donor in donors
        if donor // PEERS_PER_NODE != receiver // PEERS_PER_NODE
    }
    num_nodes = -(-num_peers // PEERS_PER_NODE)
    into, out = [0] * num_nodes, [0] * num_nodes
    for donor, node in moved:
        into[node] += 1
        out[donor // PEERS_PER_NODE] += 1
    busiest = max(*into, *out)
    return {
        "topology": topology,
        "peers": num_peers,
        "nodes": num_nodes,
        "in": max(into),
        "out": max(out),
        "held": min(PEERS_PER_NODE, num_peers) + max(into),
        **{f"s, {mb} MB": round(busiest * mb * 1e6 / BYTES_PER_S, 2) for mb in SNAPSHOTS_MB},
    }


def states_of(num_peers: int, snapshot_mb: int, copy_s_per_gb: float) -> dict[str, Any]:
    """Return the bytes of all states, those in the store of the leading process's node, and the seconds to get them."""
    each_gb = STATE * snapshot_mb / 1000
    remote = max(0, num_peers - PEERS_PER_NODE)
    return {
        "states": f"{num_peers:,} peers, {snapshot_mb} MB",
        "GB a round": round(num_peers * each_gb, 2),
        "GB in the store": round(2 * num_peers * each_gb, 2),
        "s, network": round(remote * each_gb * 1e9 / BYTES_PER_S, 2),
        "s, copies": round(remote * each_gb * copy_s_per_gb, 2),
    }
