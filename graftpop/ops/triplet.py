"""The batch-hard triplet loss."""

import torch
from torch import Tensor

__all__ = ["batch_hard_triplet_loss"]

SMALLEST_SQUARE = 1e-12
"""Keeps the gradient of the square root finite where two features are equal."""


def batch_hard_triplet_loss(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the mean over a batch of max(0, d(a, hardest positive) - d(a, hardest negative) + margin).

    d is the Euclidean distance. The hardest positive of an item is the farthest of its identity, the hardest negative
    the nearest of another identity. An item that is alone with its identity has itself as positive, at distance 0.

    Args:
        features: float (B, F).
        labels: int64 (B,), identities; at least two distinct ones.
        margin: in units of distance, >= 0.

    Raises:
        ValueError: the batch has one identity; checked on the CPU alone.

    References:
        Hermans et al., In Defense of the Triplet Loss for Person Re-Identification, arXiv:1703.07737, section 2.
    """
    square = features.square().sum(1)
    squares_BB = torch.addmm(square[:, None] + square, features, features.T, alpha=-2)
    squares_BB = squares_BB.fill_diagonal_(0)  # rounding leaves up to |a|^2 * 1e-6 of an item's distance to itself
    distances_BB = squares_BB.clamp(min=SMALLEST_SQUARE).sqrt()
    same = labels[:, None] == labels
    if labels.device.type == "cpu" and bool(same.all()):  # on a card the host would wait for it at every step
        raise ValueError("batch_hard_triplet_loss: a batch must have two identities, got one")
    positive = distances_BB.masked_fill(~same, -torch.inf).amax(1)
    negative = distances_BB.masked_fill(same, torch.inf).amin(1)
    return (positive - negative + margin).clamp(min=0).mean()
