"""Snapshots: a peer's weights as published for one exchange."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ALL_OTHERS", "Snapshot", "as_tensor"]

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
        predicted: (V,) int64, decision of the task for each validation item; empty if it has none.
        published: further arrays that the exchange rule published, by name.
    """

    peer: int
    weights: NDArray[np.float32]
    integers: NDArray[np.int64]
    entropies: NDArray[np.float64]
    predicted: NDArray[np.int64]
    published: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def weights_on(self, device: torch.device) -> Tensor:
        """Return the weights as a tensor (N,) on a device; on a CPU it shares the snapshot's memory: do not write."""
        return as_tensor(self.weights).to(device)


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor that shares a read-only array's memory, without torch's warning about writes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
