"""Who gives to whom in an exchange: functions from the number of peers to the donor of each receiver."""

from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["TOPOLOGIES", "ring"]


def ring(num_peers: int) -> tuple[int, ...]:
    """Return the donor of each peer when peer i receives from peer i - 1, and peer 0 from the last.

    Args:
        num_peers: at least 2; one peer alone would be its own donor.

    Raises:
        ValueError: fewer than 2 peers.

    References:
        Meng et al., Filter Grafting for Deep Neural Networks, CVPR 2020, Algorithm 1.
    """
    if num_peers < 2:
        raise ValueError(f"ring: needs at least 2 peers, got {num_peers=}")
    return tuple((receiver - 1) % num_peers for receiver in range(num_peers))


TOPOLOGIES: Final[Mapping[str, Callable[[int], tuple[int, ...]]]] = {"ring": ring}
