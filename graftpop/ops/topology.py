"""Who gives to whom in an exchange: functions from the number of peers to the donors of each receiver."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Final

__all__ = ["Donors", "TOPOLOGIES", "Topology", "best", "everyone", "random_pairs", "ring"]

Donors = tuple[tuple[int, ...], ...]
"""For every receiver the peers it receives from: none, one, or several whose weights are averaged."""

Topology = Callable[[int, int, Random], Donors]
"""From the number of peers, the peer that stands best, and a random state to the donors of this exchange."""


def ring(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return the donors when peer i receives from peer i - 1, and peer 0 from the last.

    Args:
        num_peers: at least 2; one peer alone would be its own donor.
        best_peer: makes no difference.
        rng: makes no difference.

    Raises:
        ValueError: fewer than 2 peers.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, Algorithm 1.
    """
    del best_peer, rng
    _check_num_peers("ring", num_peers)
    return tuple(((receiver - 1) % num_peers,) for receiver in range(num_peers))


def random_pairs(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return the donors when peers meet two by two, and both of a pair receive from each other.

    Every matching is equally likely. Of an odd number of peers one is left over and has no donor.

    Args:
        num_peers: at least 2.
        best_peer: makes no difference.
        rng: every call draws a new matching from it.

    Raises:
        ValueError: fewer than 2 peers.
    """
    del best_peer
    _check_num_peers("random_pairs", num_peers)
    order = rng.sample(range(num_peers), num_peers)
    donors: list[tuple[int, ...]] = [()] * num_peers
    for one, other in zip(order[::2], order[1::2], strict=False):  # an odd number leaves the last of the order over
        donors[one], donors[other] = (other,), (one,)
    return tuple(donors)


def everyone(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return the donors when each peer receives from all others.

    Args:
        num_peers: at least 2.
        best_peer: makes no difference.
        rng: makes no difference.

    Raises:
        ValueError: fewer than 2 peers.
    """
    del best_peer, rng
    _check_num_peers("everyone", num_peers)
    return tuple(tuple(donor for donor in range(num_peers) if donor != receiver) for receiver in range(num_peers))


def best(num_peers: int, best_peer: int, rng: Random) -> Donors:
    """Return the donors when the best peer gives to all others and receives from nobody.

    Args:
        num_peers: at least 2.
        best_peer: in [0, num_peers).
        rng: makes no difference.

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


TOPOLOGIES: Final[Mapping[str, Topology]] = {"ring": ring, "random_pairs": random_pairs, "all": everyone, "best": best}
