"""A peer's weights as published for one exchange, in numpy arrays that processes share without copying."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALL_OTHERS", "Snapshot"]

ALL_OTHERS = -1
"""In place of a peer's number: the mean of several peers."""


@dataclass(frozen=True)
class Snapshot:
    """A peer's weights as published for one exchange.

    Attributes:
        peer: whose they are, or ALL_OTHERS.
        weights: (N,) float32, the flat buffer.
        integers: (I,) int64, the integer buffers one after the other.
        entropies: (S,) float64, nats, one a site.
        predicted: (V,) int64, the classes it gave the validation images.
    """

    peer: int
    weights: NDArray[np.float32]
    integers: NDArray[np.int64]
    entropies: NDArray[np.float64]
    predicted: NDArray[np.int64]
