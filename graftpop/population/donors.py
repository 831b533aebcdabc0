"""Who gives to whom among the peers that are there: the topology closes around those that are not."""

import bisect
import random
from collections.abc import Sequence

from graftpop.ops.topology import TOPOLOGIES

__all__ = ["donors_among", "reseeding_donor"]


def donors_among(peers: Sequence[int], topology: str, best_peer: int, rng: random.Random) -> dict[int, tuple[int, ...]]:
    """Return the donors of each receiver; who receives from nobody is not in it.

    Args:
        peers: who takes part, in order.
        topology: a key of TOPOLOGIES.
        best_peer: one of them.
        rng: for topologies that draw.
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
    """Return of whom a peer without weights of its own takes them: who gives to it in a ring, else the best.

    Args:
        peer: who needs them.
        others: who has some, in order; not empty.
        topology: a key of TOPOLOGIES.
        best_peer: one of the others.
    """
    return others[bisect.bisect_left(others, peer) - 1] if topology == "ring" else best_peer
