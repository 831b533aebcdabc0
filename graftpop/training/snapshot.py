"""Snapshots: a peer's weights as published for one exchange."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL_OTHERS", "Snapshot"]

ALL_OTHERS = -1
"""Peer index of a snapshot that is the mean of several peers."""


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights as published for one exchange, in numpy arrays that processes share without a copy.

    Attributes:
        peer: index of the peer, or ALL_OTHERS.
        weights: (N,) float32, the flat buffer.
        integers: (I,) int64, the integer buffers, concatenated.
        entropies: (S,) float64, in nats, one per site.
        predicted: (V,) int64, predicted class of each validation image.
    """

    peer: int
    weights: NDArray[np.float32]
    integers: NDArray[np.int64]
    entropies: NDArray[np.float64]
    predicted: NDArray[np.int64]
