"""Snapshots of a network's flat state: taken, averaged, and copied into a network."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from graftpop.training.cuda import to_host
from graftpop.training.flat_state import FlatState
from graftpop.training.snapshot import ALL_OTHERS, Snapshot, as_tensor

__all__ = ["copy_from_", "integers_of", "mean_snapshot", "take_snapshot", "weights_by_peer"]


def take_snapshot(
    state: FlatState, peer: int, entropies: Tensor, predicted: Tensor, published: Mapping[str, Tensor]
) -> Snapshot:
    """Return a snapshot of the weights, with their entropies (S,), predictions (V,) and the rule's published tensors.

    Copy it before the weights change: on a CPU its arrays share their memory.
    """
    integers = [tensor.flatten() for tensor in state.integers.values()]
    joined = torch.cat(integers) if integers else torch.empty(0, dtype=torch.int64)
    copies = to_host([state.buffer, joined, entropies, predicted, *published.values()])
    weights, numbers, nats, decisions, *more = (tensor.numpy() for tensor in copies)
    return Snapshot(peer, weights, numbers, nats, decisions, dict(zip(published, more, strict=True)))


def mean_snapshot(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Return the mean of the weights of several snapshots, without entropies; a single snapshot unchanged."""
    if len(snapshots) == 1:
        return snapshots[0]
    mean = torch.stack([as_tensor(snapshot.weights) for snapshot in snapshots]).mean(0)
    return replace(snapshots[0], peer=ALL_OTHERS, weights=mean.numpy(), entropies=np.empty(0))


def weights_by_peer(peer: int, own: Tensor, donors: Sequence[Snapshot]) -> dict[int, Tensor]:
    """Return the weights (N,) of a peer and its donors in the order of their indices, so sums agree on all peers.

    Args:
        peer: index of the peer.
        own: its weights.
        donors: snapshots of its donors.
    """
    weights = {donor.peer: donor.weights_on(own.device) for donor in donors} | {peer: own}
    return {index: weights[index] for index in sorted(weights)}


def copy_from_(state: FlatState, donor: Snapshot) -> None:
    """Copy a donor's weights and integer buffers."""
    state.buffer.copy_(as_tensor(donor.weights))
    for _, tensor, theirs in integers_of(state, donor):
        tensor.copy_(theirs)


def integers_of(state: FlatState, donor: Snapshot) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, own tensor and donor's tensor of each integer buffer."""
    parts = as_tensor(donor.integers).split([tensor.numel() for tensor in state.integers.values()])
    for (name, tensor), part in zip(state.integers.items(), parts, strict=True):
        yield name, tensor, part.view_as(tensor)
