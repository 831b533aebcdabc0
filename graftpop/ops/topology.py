"""Topologies: functions from the number of peers to the donors of each receiver."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

__all__ = ["Donors", "TOPOLOGIES", "Topology", "best", "everyone", "mean", "random_pairs", "ring"]

Donors = tuple[tuple[int, ...], ...]
"""For each receiver its donors: none, one, or several whose weights are averaged."""

Topology = Callable[[int, int, Random], Donors]
"""From the number of peers, the best peer and a random state to the donors of one exchange."""


def ring(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return a ring: peer i receives from peer i - 1, peer 0 from the last.

    >>> ring(3, 0, Random(0))
    ((2,), (0,), (1,))

    Args:
        num_peers: at least 2; one peer alone would be its own donor.
        best_peer: unused.
        rng: unused.

    Raises:
        ValueError: fewer than 2 peers.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, Algorithm 1.
    """
    del best_peer, rng
    _check_num_peers("ring", num_peers)
    return tuple(((receiver - 1) % num_peers,) for receiver in range(num_peers))


def random_pairs(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return random pairs whose peers receive from each other.

    Every matching is equally likely. With an odd number of peers, one has no donor.

    Args:
        num_peers: at least 2.
        best_peer: unused.
        rng: every call draws a new matching from it.

    Raises:
        ValueError: fewer than 2 peers.
    """
    del best_peer
    _check_num_peers("random_pairs", num_peers)
    order = rng.sample(range(num_peers), num_peers)
    donors: list[tuple[int, ...]] = [()] * num_peers
    for one, other in zip(order[::2], order[1::2], strict=False):  # with an odd number the last one stays alone
        donors[one], donors[other] = (other,), (one,)
    return tuple(donors)


def everyone(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return all other peers as the donors of each peer.

    Args:
        num_peers: at least 2.
        best_peer: unused.
        rng: unused.

    Raises:
        ValueError: fewer than 2 peers.
    """
    del best_peer, rng
    _check_num_peers("everyone", num_peers)
    return tuple(tuple(donor for donor in range(num_peers) if donor != receiver) for receiver in range(num_peers))


def mean(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return all peers, itself included, as the donors of each peer: one mean for all.

    Args:
        num_peers: at least 2.
        best_peer: unused.
        rng: unused.

    Raises:
        ValueError: fewer than 2 peers.
    """
    del best_peer, rng
    _check_num_peers("mean", num_peers)
    return (tuple(range(num_peers)),) * num_peers


def best(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return the best peer as the donor of all others; it receives from nobody.

    Args:
        num_peers: at least 2.
        best_peer: in [0, num_peers).
        rng: unused.

    Raises:
        ValueError: fewer than 2 peers, or no such peer.
    """
    del rng
    _check_num_peers("best", num_peers)
    if not 0 <= best_peer < num_peers:
        raise ValueError(f"best: best_peer must be in [0, {num_peers}), got {best_peer=}")
    return tuple(() if receiver == best_peer else (best_peer,) for receiver in range(num_peers))


def _check_num_peers(where: str, num_peers: int) -> None:
    if num_peers < 2:
        raise ValueError(f"{where}: needs at least 2 peers, got {num_peers=}")


TOPOLOGIES: Final[Mapping[str, Topology]] = {
    "ring": ring,
    "random_pairs": random_pairs,
    "all": everyone,
    "mean": mean,
    "best": best,
}
