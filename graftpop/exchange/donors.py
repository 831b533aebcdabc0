"""Donors among the present peers: the topology closes around absent ones."""

import bisect
import random
from collections.abc import Sequence

from graftpop.ops.topology import TOPOLOGIES

__all__ = ["donors_among", "reseeding_donor"]


def donors_among(peers: Sequence[int], topology: str, best_peer: int, rng: random.Random) -> dict[int, tuple[int, ...]]:
    """Return the donors of each receiver; a peer without donors is absent.

    >>> donors_among([0, 2, 3], "ring", 2, random.Random(0))
    {0: (3,), 2: (0,), 3: (2,)}

    Args:
        peers: the present peers, in ascending order.
        topology: a key of TOPOLOGIES.
        best_peer: the peer with the best validation score.
        rng: generator for random topologies.
    """
    if len(peers) < 2:
        return {}
    places = TOPOLOGIES[topology](len(peers), list(peers).index(best_peer), rng)
    return {
        receiver: tuple(peers[place] for place in donors)
        for receiver, donors in zip(peers, places, strict=True)
        if donors
    }


def reseeding_donor(peer: int, others: Sequence[int], topology: str, best_peer: int) -> int:
    """Return the donor for a peer without finite weights: its donor in a ring, otherwise the best peer.

    Args:
        peer: the receiver.
        others: the peers with finite weights, in ascending order; not empty.
        topology: a key of TOPOLOGIES.
        best_peer: one of the others.
    """
    return others[bisect.bisect_left(others, peer) - 1] if topology == "ring" else best_peer
